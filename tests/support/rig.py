"""Simulated glasses of one model, a small cloud and the edge daemon, each for real: processes, sockets, bleak, radio."""

from __future__ import annotations

import asyncio
import base64
import io
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.support.edge_process import Cloud, Edge, cloud, edge_process, until
from tests.support.simulator import Simulator, simulator_process

RATE = 16_000


@dataclass
class Rig:
    """Simulator, cloud and edge."""

    sim: Simulator
    cloud: Cloud
    edge: Edge
    folder: Path

    async def act(self, action: str, **body: Any) -> dict[str, Any]:
        """A person, or the world, does something to the glasses."""
        async with httpx.AsyncClient() as client:
            answer = await client.post(
                f"{self.sim.url}/api/sim/input", json={"action": action, **body}, timeout=20
            )
        got: dict[str, Any] = answer.json()
        assert answer.is_success, got
        return got

    async def state(self) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            everything = (await client.get(f"{self.sim.url}/api/sim/state", timeout=20)).json()
        got: dict[str, Any] = everything["devices"][0]
        return got

    async def lens(self) -> dict[str, Any]:
        [arm] = (await self.state())["arms"].values()
        got: dict[str, Any] = arm["lens"]
        return got

    async def screenshot(self) -> np.ndarray[Any, Any]:
        async with httpx.AsyncClient() as client:
            shot = await client.get(f"{self.sim.url}/api/sim/screenshot", timeout=20)
        assert shot.is_success, shot.text
        return np.asarray(Image.open(io.BytesIO(shot.content)).convert("1"))

    async def wait(self, what: Callable[[], Awaitable[object]], seconds: float = 30.0, why: str = "") -> None:
        deadline = time.monotonic() + seconds
        while not await what():
            assert time.monotonic() < deadline, why or f"not within {seconds:.0f} s"
            await asyncio.sleep(0.05)

    async def until_shown(self, text: str, seconds: float = 30.0) -> None:
        async def shown() -> bool:
            return str((await self.lens())["text"] or "").strip("\n") == text

        await self.wait(shown, seconds, f"the lens never said {text!r}")

    async def until_state(self, **wanted: Any) -> None:
        """Until the glasses themselves say so (their `state` in /api/sim/state)."""

        async def is_so() -> bool:
            facts = (await self.state())["state"]
            return all(facts[key] == value for key, value in wanted.items())

        await self.wait(is_so, 20, f"the glasses never said {wanted}")

    async def set(self, **settings: Any) -> None:
        """The cloud hands settings on, as phones and consoles change them."""
        await self.cloud.say(type="settings_update", success=True, settings=settings)

    async def until_mic(self, on: bool) -> None:
        async def is_so() -> bool:
            return (await self.state())["microphone"]["on"] is on

        await self.wait(is_so, 20, f"the microphone never went {'on' if on else 'off'}")

    async def hear(self, sound: np.ndarray[Any, Any], seconds: float) -> np.ndarray[Any, Any]:
        """Play `sound` (floats, 16 kHz) to the glasses; what the cloud hears in the `seconds` after it."""
        before = len(self.cloud.pcm)
        await self.act("wav", wav=base64.b64encode(wav(sound)).decode())
        wanted = before + int(seconds * RATE) * 2
        await until(lambda: len(self.cloud.pcm) >= wanted, 30, "sound")
        return np.frombuffer(self.cloud.pcm[before:wanted], "<i2").astype(float)


@asynccontextmanager
async def rig(folder: Path, model: str, *sim_arguments: str, **overrides: Any) -> AsyncIterator[Rig]:
    """All three, connected and announced."""
    async with (
        simulator_process(folder, "--model", model, *sim_arguments) as sim,
        cloud() as upstream,
        edge_process(
            folder,
            **{
                "cloud": upstream.url,
                "radio": f"bumble:{sim.hci}",
                "token": "tok",
                "glasses": model,
                **overrides,
            },
        ) as edge,
    ):
        await edge.until_ready()
        await until(lambda: upstream.said("glasses_connection_state"), why="announced")
        yield Rig(sim, upstream, edge, folder)


def wav(sound: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(sound.astype("<i2").tobytes())
    return out.getvalue()


def speech_like(seconds: float = 1.0) -> np.ndarray[Any, Any]:
    """A chirp with the rhythm of syllables, 300 to 2500 Hz: what a codec must not lose, unlike any of its neighbours."""
    t = np.arange(int(seconds * RATE)) / RATE
    sweep = np.sin(2 * np.pi * (300 * t + 1100 * t**2 / seconds))
    return 9000 * sweep * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))


def correlation(source: np.ndarray[Any, Any], heard: np.ndarray[Any, Any]) -> float:
    """The best normalised cross-correlation of `source` with any part of `heard`, 0 to 1."""
    size = len(source) + len(heard) - 1
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(source, size)), size)
    energy = np.concatenate(([0.0], np.cumsum(heard**2)))
    best = 0.0
    for lag in range(len(heard) - len(source) + 1):
        power = energy[lag + len(source)] - energy[lag]
        if power > 0:
            best = max(best, float(product[lag]) / float(np.sqrt(power * (source**2).sum())))
    return best


def picture(width: int, height: int) -> bytes:
    """A BMP with a frame and a diagonal: nothing symmetrical, so that a turned or mirrored one shows."""
    image = Image.new("1", (width, height), 0)
    for x in range(width):
        image.putpixel((x, x * (height - 1) // (width - 1)), 255)
        image.putpixel((x, 0), 255)
    out = io.BytesIO()
    image.save(out, "BMP")
    return out.getvalue()


def bitmap_view(file: bytes) -> dict[str, Any]:
    return {"layoutType": "bitmap_view", "data": base64.b64encode(file).decode()}


@dataclass
class PhotoDesk:
    """The app's end of a photo: `/photo-upload` on loopback."""

    url: str
    photos: list[tuple[str, bytes]]


@asynccontextmanager
async def photo_desk() -> AsyncIterator[PhotoDesk]:
    """An HTTP server that takes multipart uploads as the SDK's app server does."""
    desk = PhotoDesk("", [])

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        lower = {name.lower(): value for name, value in fields.items()}
        body = await reader.readexactly(int(lower["content-length"]))
        boundary = lower["content-type"].partition("boundary=")[2].encode()
        parts: dict[str, bytes] = {}
        for part in body.split(b"--" + boundary)[1:-1]:
            header, _, content = part.partition(b"\r\n\r\n")
            name = header.partition(b'name="')[2].partition(b'"')[0].decode()
            parts[name] = content.removesuffix(b"\r\n")
        desk.photos.append((parts["requestId"].decode(), parts["photo"]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    desk.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/photo-upload"
    try:
        yield desk
    finally:
        server.close()
        await server.wait_closed()
