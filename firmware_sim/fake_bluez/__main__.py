"""`python -m firmware_sim.fake_bluez --bus ADDRESS --hci TRANSPORT`: the emulated bluetoothd as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys

from bleak.exc import BleakError

from firmware_sim.fake_bluez.adapter import Options
from firmware_sim.fake_bluez.daemon import Bluetoothd


async def serve(arguments: argparse.Namespace) -> int:
    """Until SIGTERM, SIGINT or the end of the bus; the exit code."""
    options = Options(arguments.temporary_max, arguments.disconnect_delay, arguments.one_connect)
    daemon = Bluetoothd(arguments.bus, arguments.hci, options)
    try:
        await daemon.start()
    except (OSError, RuntimeError, BleakError) as error:
        print(f"fake_bluez: cannot start: {error}; check --bus and --hci", file=sys.stderr)
        return 78
    server = await daemon.control(arguments.control)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"event": "ready", "bus": arguments.bus, "control": port}), flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    waiting = {asyncio.ensure_future(stop.wait()), asyncio.ensure_future(daemon.bus.ended())}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    server.close()
    await daemon.stop()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="firmware_sim.fake_bluez", description="org.bluez on a private bus, over a virtual controller."
    )
    parser.add_argument(
        "--bus", required=True, help="address of the bus, as dbus-daemon prints it: unix:path=…"
    )
    parser.add_argument("--hci", action="append", required=True, help="one adapter each, e.g. unix:hci.sock")
    parser.add_argument("--control", type=int, default=0, help="port for faults on 127.0.0.1; 0 picks one")
    parser.add_argument(
        "--temporary-max", type=float, default=30.0, help="seconds a merely seen device stays"
    )
    parser.add_argument("--disconnect-delay", type=float, default=0.0, help="seconds that Disconnect takes")
    parser.add_argument("--one-connect", action="store_true", help="a second attempt is refused: InProgress")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if arguments.verbose else logging.WARNING, stream=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(serve(arguments))
    return 130


if __name__ == "__main__":
    sys.exit(main())
