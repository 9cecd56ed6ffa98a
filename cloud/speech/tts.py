"""Text to speech for `/api/tts`: passed on to an OpenAI-compatible speech endpoint, streamed back.

Rules: nothing is sent anywhere unless a URL is configured. Time, text and audio are bounded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import httpx

from cloud.config import SpeechConfig
from wire.errors import BridgeError

#: About ten minutes of speech; longer texts are an article, not an answer of an app.
TEXT_MAX: Final = 8000
AUDIO_BYTES_MAX: Final = 20 * 1024 * 1024


class SynthesisError(BridgeError):
    """The speech endpoint did not deliver."""


class SpeechSynthesis:
    """Speaks through one endpoint. `await close()` when done."""

    def __init__(self, url: str, *, model: str, voice: str, api_key: str | None, timeout: float) -> None:
        self._url = url
        self._model = model
        self._voice = voice
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False, headers=headers)

    @classmethod
    def make(cls, config: SpeechConfig) -> SpeechSynthesis | None:
        """None if no endpoint is configured."""
        if config.tts_url is None:
            return None
        return cls(
            config.tts_url,
            model=config.tts_model,
            voice=config.tts_voice,
            api_key=config.api_key.get_secret_value() if config.api_key else None,
            timeout=config.timeout,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def speak(
        self, text: str, *, voice: str | None = None, model: str | None = None
    ) -> AsyncIterator[bytes]:
        """MP3 chunks. The first is awaited here, so that a failure can still become a status. Raises SynthesisError."""
        body = {
            "model": model or self._model,
            "voice": voice or self._voice,
            "input": text[:TEXT_MAX],
            "response_format": "mp3",
        }
        request = self._client.build_request("POST", self._url, json=body)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise SynthesisError(f"speech endpoint: {type(error).__name__}") from error
        if response.status_code != 200:
            await response.aclose()
            raise SynthesisError(f"speech endpoint answered {response.status_code}")
        return _chunks(response)


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    total = 0
    try:
        async for chunk in response.aiter_bytes():
            total += len(chunk)
            if total > AUDIO_BYTES_MAX:
                return
            yield chunk
    finally:
        await response.aclose()
