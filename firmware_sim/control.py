"""The simulator's HTTP API under /api/sim/, on loopback: read the state, see the lens, be the wearer, break things.

Rules of this file:

- 400: the request is malformed. 404: no such device or side. 409: nothing in the glasses takes the input now.
  Each answers `{"error": what and why, "fix": what would help}`.
- `perform` is the one place where an input becomes an action; the scenario player uses it, too.
- Nobody but this machine reaches it: it binds 127.0.0.1, and a browser that shows a page of another origin, or was
  led here by a foreign name, is refused (403).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from firmware_sim import lens
from firmware_sim.firmware.base import Action, Arm, Disconnect, NoTaker, UserInput, set_faults
from firmware_sim.hci_port import SimError
from firmware_sim.sound import LIVE_MAX, SoundError, read_wav

if TYPE_CHECKING:
    from firmware_sim.room import Resident, Room

BODY_MAX = 32 * 1024 * 1024
"""Bytes of one request: two minutes of 48 kHz stereo WAV."""

TEXT_MAX = 2000
"""Characters of one `say`: about three minutes of the toy voice."""

SECONDS_MAX = 3600.0
"""Longest fault with an end; one without an end has none."""

KEEP_ALIVE = 15.0
"""Seconds between comments on a quiet event stream, so that proxies keep it open."""


class BadInput(Exception):
    """The request cannot be understood."""

    def __init__(self, error: str, fix: str = "", status: int = 400) -> None:
        super().__init__(error)
        self.error, self.fix, self.status = error, fix, status


# --- inputs -----------------------------------------------------------------------------------------------------------


async def perform(room: Room, body: dict[str, Any]) -> dict[str, Any]:
    """Do what `body["action"]` says. Raises `BadInput`, `NoTaker` or `SoundError`."""
    action = body.get("action")
    if not isinstance(action, str):
        raise BadInput("the input has no 'action'", f"one of: {', '.join(sorted([*Action, *_OTHERS]))}")
    resident = find_device(room, body.get("device"))
    if action in _OTHERS:
        result = await _OTHERS[action](room, resident, body)
        if action not in _ANNOUNCED:  # so that who watches can tell, and repeat, what was done
            room.announce(resident.name, "input", **{k: v for k, v in body.items() if k not in _NOT_TOLD})
        return {"version": room.version, **result}
    if action not in list(Action):
        raise BadInput(f"unknown action {action!r}", f"one of: {', '.join(sorted([*Action, *_OTHERS]))}")
    side, value = body.get("side"), body.get("value")
    if side is not None and not isinstance(side, str):
        raise BadInput("'side' must be a string")
    if not isinstance(value, bool | int | float | str | None):
        raise BadInput("'value' must be a boolean, a number or a string")
    resident.glasses.user(UserInput(Action(action), side, value))
    return {"version": room.version}


def find_device(room: Room, name: object) -> Resident:
    if name is None:
        return next(iter(room.residents.values()))
    resident = room.residents.get(name) if isinstance(name, str) else None
    if resident is None:
        raise BadInput(f"no device {name!r}", f"one of: {', '.join(room.residents)}", 404)
    return resident


def find_arms(resident: Resident, side: object) -> list[Arm]:
    """The arm of that side, or all; a device with one arm has it on every side."""
    arms = resident.glasses.firmware.arms
    if side is None or len(arms) == 1:
        return list(arms.values())
    arm = arms.get(side) if isinstance(side, str) else None
    if arm is None:
        raise BadInput(f"{resident.name} has no side {side!r}", f"one of: {', '.join(arms)}", 404)
    return [arm]


def _number(body: dict[str, Any], key: str, low: float, high: float, default: float | None = None) -> float:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadInput(f"'{key}' must be a number from {low:g} to {high:g}")
    return float(value)


def _flag(body: dict[str, Any], key: str = "value", default: bool = True) -> bool:
    value = body.get(key, default)
    if not isinstance(value, bool):
        raise BadInput(f"'{key}' must be true or false")
    return value


def _need_microphone(resident: Resident) -> None:
    if resident.glasses.firmware.microphone is None:
        raise NoTaker("microphone is off: no app asked for it")


async def _say(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    text = body.get("text", body.get("value"))
    if not isinstance(text, str) or not text.strip() or len(text) > TEXT_MAX:
        raise BadInput(f"'text' must be a string of 1 to {TEXT_MAX} characters")
    _need_microphone(resident)
    spoken = await room.say(resident, text)
    return {"spoken": spoken.as_json()}


async def _wav(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    data = body.get("wav")
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise BadInput(f"'wav' is not base64: {error}") from error
    if not isinstance(data, bytes):
        raise BadInput("no sound: send the file as multipart field 'wav', or base64 in JSON field 'wav'")
    _need_microphone(resident)
    pcm = await asyncio.to_thread(read_wav, data)
    ends_in = resident.microphone.play(pcm)
    room.announce(resident.name, "sound", seconds=round(len(pcm) / 32000, 3))
    return {"seconds": round(len(pcm) / 32000, 3), "ends_in_s": round(ends_in, 3)}


async def _silence(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    resident.microphone.clear()
    return {}


def _for_a_time(room: Room, body: dict[str, Any], name: str, undo: Callable[[], None]) -> None:
    """Undo after 'for' seconds, when the body has one."""
    if body.get("for") is not None:
        room.after(_number(body, "for", 0, SECONDS_MAX), undo, f"end of {name}")


async def _drop(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    """Cut the link now; with 'for', stay unreachable for that long; with 'after', let so many packets pass first."""
    arms = find_arms(resident, body.get("side"))
    if "after" in body:
        for arm in arms:
            room.link.air(arm.spec.address).cut_after = int(_number(body, "after", 0, 1_000_000))
        return {}
    seconds = _number(body, "for", 0, SECONDS_MAX, 0)
    dropped = [arm.name for arm in arms if room.link.drop(arm.spec.address)]
    if not dropped and not seconds:
        raise NoTaker("nothing to drop: no arm is connected")
    if seconds:
        for arm in arms:
            room.link.blackhole(arm.spec.address, True)

        def back() -> None:
            for arm in arms:
                room.link.blackhole(arm.spec.address, False)

        room.after(seconds, back, "end of drop")
    return {"dropped": dropped}


async def _blackhole(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    """No packet passes; the link dies by itself after its supervision time-out."""
    arms, on = find_arms(resident, body.get("side")), _flag(body)

    def switch(on: bool) -> None:
        for arm in arms:
            room.link.blackhole(arm.spec.address, on)

    _for_a_time(room, body, "blackhole", lambda: switch(not on))
    switch(on)
    return {}


async def _lag(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    arms = find_arms(resident, body.get("side"))
    seconds = _number(body, "ms", 0, 60_000) / 1000

    def switch(seconds: float) -> None:
        for arm in arms:
            room.link.air(arm.spec.address).latency = seconds

    _for_a_time(room, body, "lag", lambda: switch(0.0))
    switch(seconds)
    return {}


async def _refuse_connect(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    arms, on = find_arms(resident, body.get("side")), _flag(body)
    status = int(_number(body, "status", 1, 0xFF, 0x3E))

    def switch(refusal: int | None) -> None:
        for arm in arms:
            room.link.air(arm.spec.address).refuse = refusal

    _for_a_time(room, body, "refusals", lambda: switch(None))
    switch(status if on else None)
    return {}


async def _rssi(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    for arm in find_arms(resident, body.get("side")):
        room.link.air(arm.spec.address).rssi = int(_number(body, "value", -127, 20))
    return {}


async def _adv_loss(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    for arm in find_arms(resident, body.get("side")):
        room.link.air(arm.spec.address).adv_loss = _number(body, "value", 0, 1)
    return {}


async def _radio(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    """The air of all links: 'interval_ms' (null: none), 'pdus_per_event', 'loss', 'max_links'."""
    if "interval_ms" in body:
        value = body["interval_ms"]
        room.link.params.interval = None if value is None else _number(body, "interval_ms", 7.5, 4000) / 1000
    if "pdus_per_event" in body:
        room.link.params.pdus_per_event = int(_number(body, "pdus_per_event", 1, 64))
    if "loss" in body:
        room.link.params.loss = _number(body, "loss", 0, 1)
    if "max_links" in body:
        for port in room.ports:
            port.controller.max_links = int(_number(body, "max_links", 0, 255))
    return {}


async def _mtu(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    """The largest MTU the next link gets."""
    for arm in find_arms(resident, body.get("side")):
        resident.glasses.peripherals[arm.name].device.gatt_server.max_mtu = int(
            _number(body, "value", 23, 517)
        )
    return {}


async def _faults(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    changes = body.get("faults")
    if not isinstance(changes, dict):
        raise BadInput("'faults' must be an object of switches")
    for arm in find_arms(resident, body.get("side")):
        try:
            set_faults(arm.faults, changes)
        except ValueError as error:
            raise BadInput(str(error)) from error
    return {}


async def _notify(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    """The glasses say these bytes, 'hex'; with 'force' also to a host that has not subscribed."""
    try:
        data = bytes.fromhex(body.get("hex") or "")
    except (TypeError, ValueError) as error:
        raise BadInput("'hex' must be a string of hexadecimal digits") from error
    if not data:
        raise BadInput("'hex' must have at least one byte")
    force = _flag(body, "force", False)
    arms = find_arms(resident, body.get("side"))
    peripherals = [resident.glasses.peripherals[arm.name] for arm in arms]
    said = [peripheral.spec.arm for peripheral in peripherals if peripheral.say(data, force)]
    if not said:
        raise NoTaker("no arm is connected: nobody would hear the notification")
    return {"said": said}


async def _hang_up(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    """The firmware ends the link in an orderly way, with 'reason' (HCI code)."""
    reason = int(_number(body, "reason", 1, 0xFF, 0x13))
    arms = [arm for arm in find_arms(resident, body.get("side")) if arm.link is not None]
    if not arms:
        raise NoTaker("nothing to hang up: no arm is connected")
    for arm in arms:
        assert arm.link is not None
        resident.glasses.peripherals[arm.name].enqueue(Disconnect(arm.name, arm.link, reason))
    return {"hung_up": [arm.name for arm in arms]}


async def _forget_bonds(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    for arm in find_arms(resident, body.get("side")):
        await resident.glasses.peripherals[arm.name].forget_bonds()
    return {}


async def _reject_pairing(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    for arm in find_arms(resident, body.get("side")):
        resident.glasses.peripherals[arm.name].pairing.reject = _flag(body)
    return {}


async def _unplug(room: Room, resident: Resident, body: dict[str, Any]) -> dict[str, Any]:
    """Pull the hosts' adapters out; they may plug in again."""
    for port in room.ports:
        port.unplug()
    return {}


_OTHERS = {
    "say": _say,
    "wav": _wav,
    "silence": _silence,
    "drop": _drop,
    "blackhole": _blackhole,
    "lag": _lag,
    "refuse_connect": _refuse_connect,
    "rssi": _rssi,
    "adv_loss": _adv_loss,
    "radio": _radio,
    "mtu": _mtu,
    "faults": _faults,
    "notify": _notify,
    "hang_up": _hang_up,
    "forget_bonds": _forget_bonds,
    "reject_pairing": _reject_pairing,
    "unplug": _unplug,
}


#: They announce themselves, with what they made of the request.
_ANNOUNCED = {"say", "wav"}
#: Members of an announcement that an input must not overwrite.
_NOT_TOLD = {"device", "version", "kind"}


# --- HTTP -------------------------------------------------------------------------------------------------------------


def application(room: Room) -> Starlette:
    async def state(request: Request) -> Response:
        return JSONResponse(room.state())

    async def screenshot(request: Request) -> Response:
        shown, display = _lens(room, request)
        match request.query_params.get("format", "png"):
            case "png":
                return Response(
                    lens.png(shown.screen, display), media_type="image/png", headers=_lens_headers(shown)
                )
            case "ascii":
                return PlainTextResponse(
                    lens.ascii_art(shown.screen, display) + "\n", headers=_lens_headers(shown)
                )
            case "text":
                return PlainTextResponse(shown.screen.text, headers=_lens_headers(shown))
        raise BadInput("unknown 'format'", "one of: png, ascii, text")

    async def framebuffer(request: Request) -> Response:
        shown, display = _lens(room, request)
        headers = _lens_headers(shown) | {"X-Width": str(display.width), "X-Height": str(display.height)}
        return Response(
            lens.packed(shown.screen, display), media_type="application/octet-stream", headers=headers
        )

    async def give_input(request: Request) -> Response:
        return JSONResponse(await perform(room, await _body(request)))

    async def audio(request: Request) -> Response:
        resident = find_device(room, request.query_params.get("device"))
        pcm = await _read(request, LIVE_MAX)
        if len(pcm) % 2:
            raise BadInput(
                "an odd number of bytes", "send signed 16-bit little-endian mono samples at 16 kHz"
            )
        _need_microphone(resident)
        resident.microphone.live(pcm)
        return JSONResponse({"queued_s": round(resident.microphone.seconds_left, 3)})

    async def log(request: Request) -> Response:
        resident = find_device(room, request.query_params.get("device"))
        entries = [
            {"t": entry.t, "arm": entry.arm, "direction": entry.direction, "hex": entry.hex}
            for entry in resident.glasses.firmware.log
        ]
        return JSONResponse({"entries": entries})

    async def events(request: Request) -> Response:
        return StreamingResponse(
            _event_stream(room), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return Starlette(
        routes=[
            Route("/api/sim/state", state),
            Route("/api/sim/screenshot", screenshot),
            Route("/api/sim/framebuffer", framebuffer),
            Route("/api/sim/input", give_input, methods=["POST"]),
            Route("/api/sim/audio", audio, methods=["POST"]),
            Route("/api/sim/log", log),
            Route("/api/sim/events", events),
        ],
        exception_handlers={
            BadInput: _on_bad_input,
            NoTaker: _on_no_taker,
            SoundError: _on_sound_error,
            HTTPException: _on_http_exception,
        },
        middleware=[Middleware(_LoopbackOnly)],
    )


_LOOPBACK = {"127.0.0.1", "localhost", "[::1]", "::1"}


class _LoopbackOnly:
    """Refuses requests that a web page of somewhere else makes through the user's browser."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "127.0.0.1").rpartition(":")[0] or headers.get("host", "127.0.0.1")
            origin = urlsplit(headers.get("origin", "http://localhost")).hostname
            if host not in _LOOPBACK or origin not in _LOOPBACK:
                refusal = _problem(403, "the simulator answers pages and programs of this machine only")
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _lens(room: Room, request: Request) -> tuple[Any, Any]:
    resident = find_device(room, request.query_params.get("device"))
    display = resident.glasses.firmware.display
    if display is None:
        raise BadInput(f"{resident.name} has no display", status=404)
    arm = find_arms(resident, request.query_params.get("side"))[0]
    return resident.glasses.lenses[arm.name], display


def _lens_headers(shown: Any) -> dict[str, str]:
    return {
        "X-Version": str(shown.version),
        "X-Frame": str(shown.frame),
        "X-Lit-At-Ms": str(shown.lit_at_ms),
        "Cache-Control": "no-store",
    }


async def _read(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise BadInput(f"more than {limit} bytes", status=413)
            parts.append(part)
    except ClientDisconnect:
        raise BadInput("the request ended early") from None
    return b"".join(parts)


async def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        if int(request.headers.get("content-length") or 0) > BODY_MAX:
            raise BadInput(f"more than {BODY_MAX} bytes", status=413)
        async with request.form(max_files=1, max_fields=8, max_part_size=BODY_MAX) as form:
            body: dict[str, Any] = {"action": "wav"}
            for key, value in form.items():
                body[key] = await value.read() if isinstance(value, UploadFile) else value
            return body
    try:
        document = json.loads(await _read(request, BODY_MAX))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadInput("the body must be a JSON object")
    return document


async def _event_stream(room: Room) -> AsyncIterator[bytes]:
    """First the whole state, then each change; a comment now and then."""
    changes = room.watch()
    following: asyncio.Task[dict[str, Any]] | None = asyncio.ensure_future(anext(changes))
    try:
        await asyncio.sleep(
            0
        )  # the watch must stand before the state is read, so that no change falls between
        told = room.version
        yield _event("state", room.state())
        while following is not None:
            done, _ = await asyncio.wait({following}, timeout=KEEP_ALIVE)
            if not done:
                yield b": quiet\n\n"
                continue
            try:
                message = following.result()
            except StopAsyncIteration:
                return
            if message["kind"] == "resync":
                told = room.version
                yield _event("state", room.state())
            elif message["version"] > told:  # older ones are in the state already
                yield _event("change", message)
            following = asyncio.ensure_future(anext(changes))
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await changes.aclose()


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\nid: {data['version']}\ndata: {json.dumps(data)}\n\n".encode()


def _problem(status: int, error: str, fix: str = "") -> JSONResponse:
    return JSONResponse({"error": error} | ({"fix": fix} if fix else {}), status)


async def _on_bad_input(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadInput)
    return _problem(error.status, error.error, error.fix)


async def _on_no_taker(request: Request, error: Exception) -> Response:
    return _problem(409, str(error))


async def _on_sound_error(request: Request, error: Exception) -> Response:
    return _problem(400, str(error))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the process decides about signals


@contextlib.asynccontextmanager
async def served(room: Room, port: int) -> AsyncIterator[str]:
    """Serve the API on 127.0.0.1; yields its URL. Raises `SimError` when the port is taken."""
    # With the protocol named: asyncio sets TCP_NODELAY only then, and without it every answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise SimError(
            f"--control-port {port}: cannot listen on 127.0.0.1: {error}; use another port, or 0"
        ) from error
    config = uvicorn.Config(
        application(room),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="sim control")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        room.stop_watching()
        server.should_exit = True
        await serving
        listener.close()
