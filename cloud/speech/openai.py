"""Speech recognition by an OpenAI-compatible server: `/v1/audio/transcriptions`, and `/translations` into English.

Rules: one request per utterance, plus one per `interim` seconds while somebody still speaks; never two at once for one
utterance. Sizes and times are bounded; no redirects and no environment proxies, for this is somebody's voice.
"""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx
import orjson

from cloud.speech.provider import (
    BYTES_PER_SECOND,
    SAMPLE_RATE,
    Failure,
    Recognised,
    SpeechError,
    primary,
)

#: An answer is a sentence in JSON.
REPLY_MAX: Final = 256 * 1024


class OpenAiProvider:
    """`url` is the base (`http://host:port` or `…/v1`), or the transcription endpoint itself."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        api_key: str | None = None,
        timeout: float = 20.0,
        interim: float | None = 2.0,
    ) -> None:
        """`timeout` bounds one request, `interim` is the audio between two partial results; both in seconds."""
        base = url.rstrip("/")
        base = base.removesuffix("/audio/transcriptions")
        if not base.endswith("/v1"):
            base += "/v1"
        self._base = base
        self._model = model
        self._interim_bytes = int(interim * BYTES_PER_SECOND) if interim else None
        self._client = httpx.AsyncClient(
            timeout=timeout,
            trust_env=False,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        )

    @property
    def name(self) -> str:
        return "openai"

    @property
    def where(self) -> str:
        url = httpx.URL(self._base)
        return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")

    def can_translate(self, source: str, target: str) -> bool:
        return primary(target) == "en" and primary(source) != "en"

    async def recognise(
        self,
        audio: AsyncIterator[bytes],
        source: str,
        target: str | None,
        interim: Callable[[str], None],
    ) -> Recognised:
        data = bytearray()
        asked = 0
        partials = self._interim_bytes
        async for piece in audio:
            data += piece
            if partials is not None and len(data) - asked >= partials:
                asked = len(data)
                try:
                    partial = await self._ask(bytes(data), source, target)
                except SpeechError:
                    partials = None  # the whole utterance will tell whether it is serious
                else:
                    interim(partial.text)
        return await self._ask(bytes(data), source, target)

    async def _ask(self, pcm: bytes, source: str, target: str | None) -> Recognised:
        language = primary(source)
        fields = {"model": self._model, "response_format": "json"}
        if target is None and language is not None:
            fields["language"] = language
        kind = "transcriptions" if target is None else "translations"
        request = self._client.build_request(
            "POST",
            f"{self._base}/audio/{kind}",
            data=fields,
            files={"file": ("speech.wav", _wav(pcm), "audio/wav")},
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                body = await _bounded(response)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise SpeechError(Failure.TRANSIENT, f"no answer ({type(error).__name__})") from error
        match response.status_code:
            case 200:
                pass
            case 400 | 413 | 415 | 422:
                raise SpeechError(Failure.UTTERANCE, f"audio refused with status {response.status_code}")
            case 401 | 403 | 404 | 405 | 301 | 302 | 307 | 308:
                raise SpeechError(
                    Failure.CONFIGURATION, f"request refused with status {response.status_code}"
                )
            case status:
                raise SpeechError(Failure.TRANSIENT, f"status {status}")
        try:
            answer = orjson.loads(body)
            text = answer["text"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise SpeechError(
                Failure.CONFIGURATION, "the answer has no text: not this kind of server?"
            ) from error
        if not isinstance(text, str):
            raise SpeechError(Failure.CONFIGURATION, "the answer has no text: not this kind of server?")
        detected = answer.get("language")
        return Recognised(text.strip(), detected if isinstance(detected, str) else None)

    async def close(self) -> None:
        await self._client.aclose()


async def _bounded(response: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > REPLY_MAX:
            raise SpeechError(Failure.TRANSIENT, "the answer is too large")
    return bytes(data)


def _wav(pcm: bytes) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm)
    return buffer.getvalue()
