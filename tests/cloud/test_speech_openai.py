"""The OpenAI form against a real HTTP server that speaks it."""

from __future__ import annotations

import contextlib
import io
import wave
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cloud.listener import Listener, Reject
from cloud.speech.openai import OpenAiProvider
from cloud.speech.provider import BYTES_PER_SECOND, Failure, SpeechError


class Server:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.answer: Any = {"text": " hello world "}
        self.url = ""

    async def handle(self, request: Request) -> Response:
        async with request.form() as form:
            file = form["file"]
            assert not isinstance(file, str)
            with wave.open(io.BytesIO(await file.read())) as sound:
                assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 16000)
                seconds = sound.getnframes() / 16000
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
        self.asked.append(
            {
                "path": request.url.path,
                "seconds": seconds,
                "auth": request.headers.get("authorization"),
                **fields,
            }
        )
        if self.status != 200:
            return Response("no", status_code=self.status)
        return JSONResponse(self.answer) if not isinstance(self.answer, bytes) else Response(self.answer)


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[Server]:
    made = Server()
    routes = [
        Route(f"/v1/audio/{kind}", made.handle, methods=["POST"])
        for kind in ("transcriptions", "translations")
    ]
    listener = Listener(http_app=Starlette(routes=routes), upgrade=lambda request: Reject(404, {}))
    _, port = await listener.start("127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{port}"
    try:
        yield made
    finally:
        await listener.close()


async def audio(*seconds: float) -> AsyncIterator[bytes]:
    for length in seconds:
        yield bytes(int(length * BYTES_PER_SECOND))


async def ask(
    provider: OpenAiProvider, *seconds: float, source: str = "en-US", target: str | None = None
) -> Any:
    partials: list[str] = []
    try:
        return await provider.recognise(audio(*seconds), source, target, partials.append), partials
    finally:
        await provider.close()


async def test_an_utterance_is_sent_as_wav_with_language_and_key() -> None:
    async with server() as s:
        for base in (s.url, f"{s.url}/v1", f"{s.url}/v1/audio/transcriptions"):
            provider = OpenAiProvider(base, model="whisper-1", api_key="secret", interim=None)
            assert provider.where == s.url
            result, partials = await ask(provider, 0.5, 0.7)
            assert result.text == "hello world"
            assert partials == []
        assert s.asked[0] == {
            "path": "/v1/audio/transcriptions",
            "seconds": 1.2,
            "auth": "Bearer secret",
            "model": "whisper-1",
            "response_format": "json",
            "language": "en",
        }


async def test_partial_results_grow_with_the_audio() -> None:
    async with server() as s:
        result, partials = await ask(OpenAiProvider(s.url, model="m", interim=1.0), 0.6, 0.6, 0.6, 0.6)
        assert [asked["seconds"] for asked in s.asked] == [1.2, 2.4, 2.4]
        assert partials == ["hello world"] * 2 or partials == [" hello world "] * 2
        assert result.text == "hello world"


async def test_translation_into_english_has_its_own_route() -> None:
    async with server() as s:
        provider = OpenAiProvider(s.url, model="m")
        assert provider.can_translate("es-ES", "en-US")
        assert not provider.can_translate("en-US", "es-ES")
        assert not provider.can_translate("en-US", "en-GB")
        await ask(provider, 0.5, source="auto", target="en-US")
        assert s.asked[0]["path"] == "/v1/audio/translations"
        assert "language" not in s.asked[0]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Failure.UTTERANCE),
        (401, Failure.CONFIGURATION),
        (404, Failure.CONFIGURATION),
        (302, Failure.CONFIGURATION),
        (429, Failure.TRANSIENT),
        (500, Failure.TRANSIENT),
    ],
)
async def test_every_refusal_says_what_it_means(status: int, kind: Failure) -> None:
    async with server() as s:
        s.status = status
        with pytest.raises(SpeechError) as failed:
            await ask(OpenAiProvider(s.url, model="m"), 0.5)
        assert failed.value.kind is kind


@pytest.mark.parametrize("answer", [b"<html>", [], {"words": 1}, {"text": 5}, {"text": None}])
async def test_an_answer_without_text_is_the_wrong_kind_of_server(answer: Any) -> None:
    async with server() as s:
        s.answer = answer
        with pytest.raises(SpeechError) as failed:
            await ask(OpenAiProvider(s.url, model="m"), 0.5)
        assert failed.value.kind is Failure.CONFIGURATION


async def test_an_endless_answer_and_nobody_there_are_transient() -> None:
    async with server() as s:
        s.answer = {"text": "x" * 300_000}
        with pytest.raises(SpeechError) as failed:
            await ask(OpenAiProvider(s.url, model="m"), 0.5)
        assert failed.value.kind is Failure.TRANSIENT
    with pytest.raises(SpeechError) as failed:
        await ask(OpenAiProvider("http://127.0.0.1:1", model="m"), 0.5)
    assert failed.value.kind is Failure.TRANSIENT


async def test_a_failed_partial_does_not_fail_the_utterance() -> None:
    async with server() as s:
        s.status = 500

        async def recovering() -> AsyncIterator[bytes]:
            yield bytes(2 * BYTES_PER_SECOND)
            s.status = 200
            yield bytes(2 * BYTES_PER_SECOND)

        provider = OpenAiProvider(s.url, model="m", interim=1.0)
        result = await provider.recognise(recovering(), "en-US", None, lambda text: None)
        await provider.close()
        assert result.text == "hello world"
        assert len(s.asked) == 2
