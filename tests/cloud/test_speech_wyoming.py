"""The Wyoming client: against a scripted peer always, against the protocol's own package where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from cloud.metrics import Metrics
from cloud.speech.provider import BYTES_PER_SECOND, Failure, Recognised, SpeechError
from cloud.speech.service import SpeechService
from cloud.speech.wyoming import WyomingProvider
from tests.cloud.test_speech_voice import noise, tone
from tests.support.tools import missing
from tests.support.waiting import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def peer(serve: Serve) -> AsyncIterator[int]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def read_event(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any], bytes]:
    head = json.loads(await reader.readline())
    data = head.get("data", {})
    if head.get("data_length"):
        data |= json.loads(await reader.readexactly(head["data_length"]))
    payload = await reader.readexactly(head["payload_length"]) if head.get("payload_length") else b""
    return head["type"], data, payload


async def audio(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def ask(port: int, *pieces: bytes, source: str = "en-US") -> tuple[Recognised, list[str]]:
    partials: list[str] = []
    result = await WyomingProvider("127.0.0.1", port).recognise(audio(*pieces), source, None, partials.append)
    return result, partials


async def test_an_utterance_is_streamed_and_its_transcript_read() -> None:
    seen: list[tuple[str, dict[str, Any], bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not seen or seen[-1][0] != "audio-stop":
            seen.append(await read_event(reader))
        writer.write(b'{"type":"transcript-start","data":{"language":"en"}}\n')
        writer.write(b'{"type":"transcript-chunk","data":{"text":"hello"}}\n')
        body = b'{"text":" world"}'
        writer.write(b'{"type":"transcript-chunk","data_length":%d}\n%b' % (len(body), body))
        writer.write(b'{"type":"something-new","payload_length":3}\nabc')
        writer.write(b'{"type":"transcript","data":{"text":" hello world ","language":"en"}}\n')

    async with peer(serve) as port:
        result, partials = await ask(port, b"\x01\x00" * 100, b"\x02\x00" * 100)
    assert result == Recognised("hello world", "en")
    assert partials == ["hello", "hello world"]
    assert [kind for kind, _, _ in seen] == [
        "transcribe",
        "audio-start",
        "audio-chunk",
        "audio-chunk",
        "audio-stop",
    ]
    assert seen[0][1] == {"language": "en"}
    assert seen[1][1] == {"rate": 16000, "width": 2, "channels": 1}
    assert seen[2][2] == b"\x01\x00" * 100


async def test_no_language_is_named_for_auto() -> None:
    seen: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await read_event(reader))[1])
        writer.write(b'{"type":"transcript","data":{"text":"x"}}\n')
        await reader.read()

    async with peer(serve) as port:
        await ask(port, b"\x00\x00", source="auto")
    assert seen == [{}]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", Failure.TRANSIENT),
        (b'{"type":"error","data":{"text":"boom"}}\n', Failure.TRANSIENT),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Failure.CONFIGURATION),
        (b"[1]\n", Failure.CONFIGURATION),
        (b"{}\n", Failure.CONFIGURATION),
        (b'{"type":"transcript","data_length":99999999}\n', Failure.CONFIGURATION),
        (b'{"type":"transcript","data_length":-1}\n', Failure.CONFIGURATION),
        (b'{"type":"transcript","data_length":"x"}\n', Failure.CONFIGURATION),
        (b'{"type":"transcript","data_length":5}\n{', Failure.TRANSIENT),
        (b"x" * 600_000, Failure.TRANSIENT),
    ],
)
async def test_every_bad_answer_says_what_it_means(answer: bytes, kind: Failure) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_event(reader)
        writer.write(answer)
        await writer.drain()

    async with peer(serve) as port:
        with pytest.raises(SpeechError) as failed:
            await ask(port, b"\x00\x00" * 100)
    assert failed.value.kind is kind


@pytest.mark.failure("AUD-01")
async def test_an_engine_that_closes_what_is_idle_hears_the_first_words_after_each_of_twenty_pauses() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """After an answer, a connection that says nothing for 20 ms is closed, as engines do after their idle time."""
        nonlocal connections
        connections += 1
        heard, patience = 0, None
        with contextlib.suppress(TimeoutError, json.JSONDecodeError):  # idle, or closed by our side
            while True:
                kind, _, payload = await asyncio.wait_for(read_event(reader), patience)
                heard += len(payload)
                if kind == "audio-stop":
                    data = {"text": f"{heard} bytes"}
                    writer.write(json.dumps({"type": "transcript", "data": data}).encode() + b"\n")
                    patience = 0.02

    finals: list[Mapping[str, Any]] = []
    async with peer(serve) as port:
        service = SpeechService(WyomingProvider("127.0.0.1", port), Metrics(), timeout=5.0)
        session = service.session("u@x", finals.append, lambda speaking: None)
        session.need(frozenset({("en-US", None)}))
        for cycle in range(1, 21):
            session.feed(noise(0.2) + tone(0.4) + noise(0.9))
            await until(lambda n=cycle: len([e for e in finals if e["isFinal"]]) == n, "words", 2.0)
            await asyncio.sleep(0.03)  # longer than the engine's patience
        assert service.state.failures == 0
        await session.close()
        await service.close()
    assert connections == 20
    assert len({e["text"] for e in finals if e["isFinal"]}) == 1, "every time all of it"


async def test_nobody_there_is_transient() -> None:
    with pytest.raises(SpeechError) as failed:
        await ask(1, b"\x00\x00")
    assert failed.value.kind is Failure.TRANSIENT


#: A server made with the package of the protocol's authors: answers with the seconds of audio that it heard.
REFERENCE_SERVER = """
import asyncio, sys
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.server import AsyncEventHandler, AsyncTcpServer

class Handler(AsyncEventHandler):
    heard, language = 0, None
    async def handle_event(self, event):
        if Transcribe.is_type(event.type):
            self.language = Transcribe.from_event(event).language
        elif AudioStart.is_type(event.type):
            start = AudioStart.from_event(event)
            assert (start.rate, start.width, start.channels) == (16000, 2, 1)
        elif AudioChunk.is_type(event.type):
            self.heard += len(AudioChunk.from_event(event).audio)
            await self.write_event(TranscriptChunk(text="more ").event())
        elif AudioStop.is_type(event.type):
            await self.write_event(Transcript(text=f"{self.heard / 32000:g} s", language=self.language).event())
            return False
        return True

async def main():
    server = await asyncio.start_server(lambda r, w: Handler(r, w).run(), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


async def test_a_real_wyoming_server_understands_us() -> None:
    try:
        import wyoming  # type: ignore[import-not-found,unused-ignore] # noqa: F401
    except ImportError:
        missing("the package `wyoming`", "pip install wyoming")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REFERENCE_SERVER, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        second = bytes(BYTES_PER_SECOND // 2)
        result, partials = await ask(port, second, second, second, source="de-DE")
        assert result == Recognised("1.5 s", "de")
        assert partials[0] == "more "
    finally:
        process.kill()
        await process.wait()
