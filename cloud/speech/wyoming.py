"""Speech recognition by a Wyoming server, the protocol of Home Assistant's speech services, over TCP.

Rules: one connection per utterance, opened when somebody starts to speak, so that the audio arrives while it is spoken.
An event is a line of JSON, then `data_length` bytes of JSON, then `payload_length` bytes; all three are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import orjson

from cloud.speech.provider import SAMPLE_RATE, Failure, Recognised, SpeechError, primary

#: A line, its data and its payload; a server's longest message is a transcript.
PART_MAX: Final = 256 * 1024
CONNECT_TIMEOUT: Final = 5.0

_FORMAT: Final = {"rate": SAMPLE_RATE, "width": 2, "channels": 1}


class WyomingProvider:
    """A server at `tcp://host:port`."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    @property
    def name(self) -> str:
        return "wyoming"

    @property
    def where(self) -> str:
        return f"tcp://{self._host}:{self._port}"

    def can_translate(self, source: str, target: str) -> bool:
        return False

    async def recognise(
        self,
        audio: AsyncIterator[bytes],
        source: str,
        target: str | None,
        interim: Callable[[str], None],
    ) -> Recognised:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=PART_MAX)
        except (OSError, TimeoutError) as error:
            raise SpeechError(Failure.TRANSIENT, f"cannot connect ({type(error).__name__})") from error
        sender = asyncio.ensure_future(self._send(writer, audio, source))
        try:
            return await self._listen(reader, interim)
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise SpeechError(Failure.TRANSIENT, f"connection lost ({type(error).__name__})") from error
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _send(self, writer: asyncio.StreamWriter, audio: AsyncIterator[bytes], source: str) -> None:
        language = primary(source)
        _write(writer, "transcribe", {"language": language} if language else {})
        _write(writer, "audio-start", _FORMAT)
        async for piece in audio:
            _write(writer, "audio-chunk", _FORMAT, piece)
            await writer.drain()
        _write(writer, "audio-stop", {})
        await writer.drain()

    @staticmethod
    async def _listen(reader: asyncio.StreamReader, interim: Callable[[str], None]) -> Recognised:
        text = ""
        while True:
            kind, data = await _read(reader)
            match kind:
                case "transcript":
                    language = data.get("language")
                    return Recognised(
                        str(data.get("text", "")).strip(), language if isinstance(language, str) else None
                    )
                case "transcript-chunk":
                    text += str(data.get("text", ""))
                    interim(text)
                case "error":
                    raise SpeechError(Failure.TRANSIENT, "the server reported an error")
                case _:
                    pass  # transcript-start, transcript-stop, voice-started and whatever comes later

    async def close(self) -> None:
        """Nothing outlives an utterance."""


def _write(writer: asyncio.StreamWriter, kind: str, data: Mapping[str, Any], payload: bytes = b"") -> None:
    head: dict[str, Any] = {"type": kind}
    body = orjson.dumps(data) if data else b""
    if body:
        head["data_length"] = len(body)
    if payload:
        head["payload_length"] = len(payload)
    writer.write(b"".join((orjson.dumps(head), b"\n", body, payload)))


async def _read(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    try:
        head = orjson.loads(await reader.readuntil(b"\n"))
        data = dict(head.get("data") or {})
        size, payload = int(head.get("data_length") or 0), int(head.get("payload_length") or 0)
        if not 0 <= size <= PART_MAX or not 0 <= payload <= PART_MAX:
            raise ValueError
        if size:
            data |= orjson.loads(await reader.readexactly(size))
        if payload:
            await reader.readexactly(payload)
        return str(head["type"]), data
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # JSONDecodeError is a ValueError
        raise SpeechError(Failure.CONFIGURATION, "the answer is not the Wyoming protocol") from error
