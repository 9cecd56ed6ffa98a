"""Fifty simulated glasses on one edge process, for real: `python -m tests.bench.edge_fleet [--model nex] [--count 50]`.

Rules: the daemon, the simulator and a small cloud are real programs with real sockets and a real Bluetooth host stack; the
simulator and the cloud's side are not counted. CPU is the edge process's own time, memory its resident set, latency runs
from the cloud's frame to the glasses' acknowledgement, as the edge reports it for each display. Three loads in turn: idle,
a text for everyone every second, all microphones on. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.server import ServerConnection, serve

from tests.support.edge_process import edge_process
from tests.support.simulator import simulator_process

READY_MAX = 300.0
"""Seconds until all are connected: one after the other, about a second each, on a busy machine more."""

_SESSION = {"userId": "u", "sessionId": "u", "startTime": "2026-01-01T00:00:00.000Z"}
_ACK = json.dumps({"type": "connection_ack", "sessionId": "u", "userSession": _SESSION})


class Sky:
    """The clouds of all wearers: acknowledges, answers pings, counts displays that were shown."""

    def __init__(self) -> None:
        self.sockets: list[ServerConnection] = []
        self.results: list[dict[str, Any]] = []
        self.sound = 0  # bytes of PCM
        self.connected: set[int] = set()

    async def client(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        await socket.send(_ACK)
        async for frame in socket:
            if isinstance(frame, bytes):
                self.sound += len(frame)
                continue
            message = json.loads(frame)
            match message["type"]:
                case "ping":
                    await socket.send(json.dumps({"type": "pong", "sentMs": message.get("sentMs")}))
                case "connection_init":
                    await socket.send(_ACK)
                case "glasses_connection_state" if message["status"] == "CONNECTED":
                    self.connected.add(id(socket))
                case "glassbridge_display_result":
                    self.results.append(message)

    async def listen(self, on: bool) -> None:
        """Ask every wearer's glasses for their microphone."""
        wish = {"type": "microphone_state_change", "sessionId": "u", "isMicrophoneEnabled": on}
        frame = json.dumps({**wish, "requiredData": ["pcm"] if on else []})
        for socket in self.sockets:
            await socket.send(frame)

    async def show(self, text: str, display_id: str) -> None:
        layout = {"layoutType": "text_wall", "text": text}
        frame = {
            "type": "display_event",
            "packageName": "a",
            "view": "main",
            "layout": layout,
            "displayId": display_id,
        }
        for socket in self.sockets:
            await socket.send(json.dumps(frame))


def cpu(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(model: str, count: int, rounds: int, pause: float) -> dict[str, Any]:
    sky = Sky()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            simulator_process(folder, "--model", model, "--count", str(count)) as sim,
            serve(sky.client, "127.0.0.1", 0) as server,
        ):
            # Real adapters hold 5 to 20 links; here one holds all, for the process is what is measured.
            async with httpx.AsyncClient() as client:
                answer = await client.post(
                    f"{sim.url}/api/sim/input", json={"action": "radio", "max_links": 255}, timeout=20
                )
                answer.raise_for_status()
            port = next(iter(server.sockets)).getsockname()[1]
            wearers = [
                {
                    "user": device["id"],
                    "token": "t",
                    "cloud": f"ws://127.0.0.1:{port}",
                    "glasses": f"{model}@" + ",".join(arm["address"] for arm in device["arms"].values()),
                }
                for device in sim.ready["devices"]
            ]
            async with edge_process(folder, radio=f"bumble:{sim.hci}", wearers=wearers) as edge:
                pid = edge.process.pid
                began = time.monotonic()
                while len(sky.connected) < count:
                    if time.monotonic() - began > READY_MAX:
                        raise SystemExit(
                            f"only {len(sky.connected)} of {count} connected in {READY_MAX:.0f} s"
                        )
                    await asyncio.sleep(0.2)
                connected = time.monotonic() - began
                await asyncio.sleep(5.0)
                start, at = cpu(pid), time.monotonic()
                await asyncio.sleep(10.0)
                idle = (cpu(pid) - start) / (time.monotonic() - at)
                start, at = cpu(pid), time.monotonic()
                for number in range(rounds):
                    await sky.show(f"round {number} of a text as captions are", f"d{number}")
                    await asyncio.sleep(pause)
                await asyncio.sleep(2.0)
                busy = (cpu(pid) - start) / (time.monotonic() - at)
                await sky.listen(True)
                await asyncio.sleep(5.0)
                start, at, heard = cpu(pid), time.monotonic(), sky.sound
                await asyncio.sleep(10.0)
                lasted = time.monotonic() - at
                listening = (cpu(pid) - start) / lasted
                sound = (sky.sound - heard) / 32_000 / lasted
                megabytes = resident(pid)
                loop = await edge.status()
    shown = [r for r in sky.results if r["outcome"] == "shown"]
    latency = sorted((r.get("edgeMs") or 0.0) + (r.get("bleMs") or 0.0) for r in shown)
    return {
        "model": model,
        "glasses": count,
        "connected_s": round(connected, 1),
        "cpu_idle_percent": round(100 * idle, 1),
        "cpu_displays_percent": round(100 * busy, 1),
        "displays_per_s": round(count / pause, 1),
        "displays_sent": count * rounds,
        "displays_shown": len(shown),
        "displays_replaced": sum(r["outcome"] == "replaced" for r in sky.results),
        "display_ms_p50": round(statistics.median(latency), 1) if latency else None,
        "display_ms_p99": round(latency[len(latency) * 99 // 100], 1) if latency else None,
        "cpu_microphones_percent": round(100 * listening, 1),
        "sound_s_per_s": round(sound, 1),
        "sound_ms_p99": max(
            (w["audio"]["notification_to_uplink_ms"] or {}).get("p99", 0.0) for w in loop["wearers"]
        ),
        "resident_mb": round(megabytes, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nex", choices=("g1", "live", "nex", "frame"))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two texts to everyone")
    given = parser.parse_args()
    with contextlib.redirect_stderr(io.StringIO()):  # the daemon's log, some lines for each pair
        figures = asyncio.run(measure(given.model, given.count, given.rounds, given.pause))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
