"""The radio room: one process with some glasses, the air between them, ports for hosts and a control API.

Rules of this file:

- Everything that differs between two devices of a model comes from the seed.
- Every change of anything visible gets the next version number; watchers that fall behind are told to start over.
- What is opened is closed: sockets, files, tasks, on every way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bumble import core, hci
from bumble.snoop import BtSnooper
from bumble.transport import open_transport

from firmware_sim import control
from firmware_sim.camera import SimCamera
from firmware_sim.firmware import MODELS
from firmware_sim.firmware.base import Identity
from firmware_sim.hci_port import HciPort, SimError
from firmware_sim.peripheral import Change, Glasses, Lens
from firmware_sim.radio import SimController, SimLink
from firmware_sim.scenario import load_scenario, play
from firmware_sim.sound import SimMicrophone, speak

logger = logging.getLogger(__name__)

ADDRESSES_EACH = 2
"""No model has more than two arms."""

DEVICES_MAX = 499
"""Two channel numbers of three digits are never equal; more glasses than this belong into a second room."""

WATCH_MAX = 256
"""Changes a watcher may lie behind before it is told to read the state anew (at 20 a second: 12 s)."""

ADAPTER_OPEN_MAX = 10.0
"""Seconds to open a real adapter; USB needs about one."""

SPOKEN_MAX = 32
"""Spoken texts kept per device for those who ask late."""


@dataclass
class Spoken:
    """Words said to one device, for a transcription that reads instead of listening."""

    number: int
    text: str
    started_at_ms: int
    duration_ms: int

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "text": self.text,
            "started_at_ms": self.started_at_ms,
            "duration_ms": self.duration_ms,
        }


@dataclass
class Resident:
    """One device in the room."""

    glasses: Glasses
    microphone: SimMicrophone
    spoken: deque[Spoken] = field(default_factory=lambda: deque(maxlen=SPOKEN_MAX))

    @property
    def name(self) -> str:
        return self.glasses.name


class Room:
    """All of it. `async with Room(...)` opens and closes."""

    def __init__(
        self,
        models: list[str],
        *,
        count: int = 1,
        hci_ports: list[str],
        seed: int = 0,
        btsnoop: Path | None = None,
    ) -> None:
        """Must be made inside a running event loop. Raises `SimError` for what cannot be.

        `hci_ports`: `unix-server:`/`tcp-server:` addresses are ports for hosts on the virtual radio; anything else
        (`usb:0`, `serial:/dev/ttyACM0`) is a real adapter that carries one arm on air.
        """
        unknown = [model for model in models if model not in MODELS]
        if unknown or not models:
            raise SimError(
                f"unknown glasses model {', '.join(unknown) or '(none)'}: known are {', '.join(sorted(MODELS))}"
            )
        if count < 1 or count * len(models) > DEVICES_MAX:
            raise SimError(
                f"{count * len(models)} devices: a room holds 1 to {DEVICES_MAX}; start another process"
            )
        self.seed = seed
        self.started = time.monotonic()
        self.version = 0
        self.link = SimLink(seed)
        self._watchers: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._said = 0
        self._snoop_path = btsnoop
        self._stack = contextlib.AsyncExitStack()
        self.residents: dict[str, Resident] = {}
        for name, model, identity, rng in _identities(models, count, seed):
            microphone = SimMicrophone()
            firmware = MODELS[model](identity, chance=rng.random, audio=microphone, pictures=SimCamera())
            self.residents[name] = Resident(Glasses(name, firmware, self.link, self._changed), microphone)
        self._port_specs = [spec for spec in hci_ports if _is_server(spec)]
        self._adapter_specs = [spec for spec in hci_ports if not _is_server(spec)]
        self.ports: list[HciPort] = []
        self.hci: list[str] = []
        """Transport names with which hosts connect, in the order of the ports."""

    async def __aenter__(self) -> Room:
        try:
            snooper = None
            if self._snoop_path is not None:
                try:
                    output = self._stack.enter_context(_open_binary(self._snoop_path))
                except OSError as error:
                    raise SimError(f"--btsnoop {self._snoop_path}: cannot write there: {error}") from error
                snooper = BtSnooper(output)
            for number, spec in enumerate(self._port_specs):
                # Locally administered public addresses, apart for each port.
                address = hci.Address(
                    f"02:5A:00:00:{self.seed & 0xFF:02X}:{number + 1:02X}", hci.Address.PUBLIC_DEVICE_ADDRESS
                )
                port = HciPort(spec, SimController(f"port {number}", self.link, address), snooper)
                self._stack.push_async_callback(port.close)
                self.hci.append(await port.open())
                self.ports.append(port)
            await self._open_adapters()
            for resident in self.residents.values():
                self._stack.push_async_callback(resident.glasses.power_off)
                await resident.glasses.power_on()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.stop_watching()
        await self._stack.aclose()

    async def _open_adapters(self) -> None:
        """Real controllers carry the arms, one each, in the order of the devices."""
        if not self._adapter_specs:
            return
        arms = [arm for resident in self.residents.values() for arm in resident.glasses.peripherals.values()]
        if len(arms) != len(self._adapter_specs):
            raise SimError(
                f"{len(self._adapter_specs)} real adapters for {len(arms)} arms: every arm needs one of its own, "
                "as each is a Bluetooth device; give --hci once per arm"
            )
        for arm, spec in zip(arms, self._adapter_specs, strict=True):
            try:
                async with asyncio.timeout(ADAPTER_OPEN_MAX):
                    transport = await open_transport(spec)
            except (OSError, TimeoutError, ValueError, core.BaseBumbleError, ImportError) as error:
                raise SimError(
                    f"--hci {spec}: cannot open that adapter: {error or type(error).__name__}"
                ) from error
            self._stack.push_async_callback(transport.close)
            arm.use_adapter(transport)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- changes -------------------------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        self.version += 1
        message: dict[str, Any] = {"version": self.version, "kind": change.kind, "device": change.device}
        if change.arm is not None:
            message["arm"] = change.arm
            if change.kind == "lens":
                shown = self.residents[change.device].glasses.lenses[change.arm]
                shown.version = self.version
                message["lens"] = lens_json(shown)
        else:
            message |= change.data
        for queue in self._watchers:
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait({"version": self.version, "kind": "resync"})

    def announce(self, device: str, kind: str, **data: Any) -> None:
        self._changed(Change(device, kind, None, data))

    async def watch(self) -> AsyncGenerator[dict[str, Any], None]:
        """Every change from now on. `{"kind": "resync"}`: some were lost, read the state."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(WATCH_MAX)
        self._watchers.add(queue)
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            self._watchers.discard(queue)

    def stop_watching(self) -> None:
        for queue in self._watchers:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

    # -- people --------------------------------------------------------------------------------------------------

    async def say(self, resident: Resident, text: str) -> Spoken:
        """Speak into the microphone; the words themselves are announced, too. Raises `SoundError`."""
        pcm = await asyncio.to_thread(speak, text)
        waiting = resident.microphone.seconds_left
        resident.microphone.play(pcm)
        self._said += 1
        spoken = Spoken(
            self._said,
            text,
            time.time_ns() // 1_000_000 + int(waiting * 1000),
            int(len(pcm) / 32),  # 32 bytes are a millisecond
        )
        resident.spoken.append(spoken)
        self.announce(resident.name, "spoken", spoken=spoken.as_json())
        return spoken

    def after(self, seconds: float, then: Callable[[], None], name: str) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            then()

        self.spawn(wait(), name)

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        params = self.link.params
        return {
            "version": self.version,
            "seed": self.seed,
            "uptime_s": round(time.monotonic() - self.started, 3),
            "hci": [
                {
                    "transport": transport,
                    "connected": port.connected,
                    "links": len(port.controller.le_connections),
                }
                for transport, port in zip(self.hci, self.ports, strict=True)
            ],
            "radio": {
                "interval_ms": None if params.interval is None else params.interval * 1000,
                "pdus_per_event": params.pdus_per_event,
                "loss": params.loss,
            },
            "devices": [self.device_json(resident) for resident in self.residents.values()],
        }

    def device_json(self, resident: Resident) -> dict[str, Any]:
        firmware = resident.glasses.firmware
        format_ = firmware.microphone
        display = firmware.display
        return {
            "id": resident.name,
            "model": firmware.model,
            "display": None if display is None else {"width": display.width, "height": display.height},
            "microphone": {
                "on": format_ is not None,
                "codec": None if format_ is None else format_.codec,
                "frame_bytes": None if format_ is None else format_.frame_bytes,
                "queued_s": round(resident.microphone.seconds_left, 3),
            },
            "arms": {
                name: {
                    "name": arm.spec.name,
                    "address": arm.spec.address,
                    "state": arm.state.value,
                    "mtu": arm.mtu,
                    "subscribed": bool(arm.subscribed),
                    "rssi": self.link.air(arm.spec.address).rssi,
                    "lens": lens_json(resident.glasses.lenses[name]),
                    "counters": {
                        field_name: getattr(arm.counters, field_name) for field_name in arm.counters.__slots__
                    },
                }
                for name, arm in firmware.arms.items()
            },
            "spoken": [spoken.as_json() for spoken in resident.spoken],
            "state": firmware.snapshot(),
        }


def lens_json(lens: Lens) -> dict[str, Any]:
    return {
        "kind": lens.screen.kind,
        "text": lens.screen.text,
        "version": lens.version,
        "frame": lens.frame,
        "lit_at_ms": lens.lit_at_ms or None,
    }


def _identities(
    models: list[str], count: int, seed: int
) -> Iterator[tuple[str, str, Identity, random.Random]]:
    """(name, model, identity, its own randomness) of every device, the same for the same arguments."""
    rng = random.Random(f"room {seed}")
    total = count * len(models)
    channels = rng.sample(range(1, 1000), total)
    serials = rng.sample(range(1_000_000), total)
    # Static random addresses have their two top bits set; six equal bytes never occur by this construction.
    lows = rng.sample(range(1 << 24), total * ADDRESSES_EACH)
    for index in range(total):
        model, number = models[index % len(models)], index // len(models) + 1
        addresses = tuple(
            ":".join(
                f"{byte:02X}" for byte in (0xC0 | rng.randrange(0x40), 0x5A, 0x51, *low.to_bytes(3, "big"))
            )
            for low in lows[index * ADDRESSES_EACH :][:ADDRESSES_EACH]
        )
        name = f"{model}-{number}"
        yield (
            name,
            model,
            Identity(number, channels[index], addresses, serials[index]),
            random.Random(f"{seed} {name}"),
        )


def _is_server(spec: str) -> bool:
    return spec.partition(":")[0].endswith("-server")


def _open_binary(path: Path) -> BinaryIO:
    return path.open("wb")


async def serve(
    models: list[str],
    *,
    count: int = 1,
    hci: list[str],
    control_port: int = 0,
    scenario: Path | None = None,
    seed: int = 0,
    btsnoop: Path | None = None,
    ready: Callable[[dict[str, Any]], None],
    stop: asyncio.Event,
) -> None:
    """Open a room and its control API on 127.0.0.1, call `ready` with the ready document, close when `stop` is set.

    Raises `SimError` when something cannot be opened.
    """
    steps = load_scenario(scenario) if scenario is not None else []
    async with (
        Room(models, count=count, hci_ports=hci, seed=seed, btsnoop=btsnoop) as room,
        control.served(room, control_port) as url,
    ):
        ready(
            {
                "event": "ready",
                "control": url,
                "hci": room.hci,
                "devices": [
                    {
                        "id": resident.name,
                        "model": resident.glasses.firmware.model,
                        "arms": {
                            name: {"name": arm.spec.name, "address": arm.spec.address}
                            for name, arm in resident.glasses.firmware.arms.items()
                        },
                    }
                    for resident in room.residents.values()
                ],
            }
        )
        if steps:
            room.spawn(play(room, steps), "scenario")
        await stop.wait()
        room.stop_watching()


def run(
    models: list[str],
    count: int = 1,
    hci: list[str] | None = None,
    control_port: int = 0,
    scenario: Path | None = None,
    seed: int = 0,
    btsnoop: Path | None = None,
    json_ready: bool = False,
) -> int:
    """The simulator process: blocks until SIGTERM or SIGINT; the exit code (0, 78 for what cannot be set up, 130)."""

    def announce(document: dict[str, Any]) -> None:
        if json_ready:
            print(json.dumps(document), flush=True)
            return
        for device in document["devices"]:
            arms = " + ".join(arm["name"] for arm in device["arms"].values())
            print(f"{device['id']:10} {arms}  SIMULATED", file=sys.stderr)
        for transport in document["hci"]:
            print(f"{'radio':10} --radio bumble:{transport}", file=sys.stderr)
        print(f"{'control':10} {document['control']}", file=sys.stderr, flush=True)

    async def main() -> int:
        stop = asyncio.Event()
        code = 0

        def interrupted() -> None:
            nonlocal code
            code = 130
            stop.set()

        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # Windows has no signal handlers in its loop
            loop.add_signal_handler(signal.SIGTERM, stop.set)
            loop.add_signal_handler(signal.SIGINT, interrupted)
        await serve(
            models,
            count=count,
            hci=hci or [],
            control_port=control_port,
            scenario=scenario,
            seed=seed,
            btsnoop=btsnoop,
            ready=announce,
            stop=stop,
        )
        return code

    try:
        return asyncio.run(main())
    except SimError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 78
    except KeyboardInterrupt:
        return 130
