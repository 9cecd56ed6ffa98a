"""What a speech provider is: it hears one utterance and says what was said.

Rules: a provider holds no session state; it may send partial results while it listens. Its failures are `SpeechError`s
whose `kind` is decided where they are made. Audio is PCM16 little-endian, mono, 16 kHz.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from wire.errors import BridgeError

SAMPLE_RATE: Final = 16_000
BYTES_PER_SECOND: Final = 2 * SAMPLE_RATE


class Failure(StrEnum):
    """What a failure says about the provider."""

    TRANSIENT = "unreachable"  # network, overload, time-out: try again, slowly
    CONFIGURATION = "misconfigured"  # refused key, wrong URL: only an operator can mend it
    UTTERANCE = "refused"  # this audio was not wanted; the provider itself is well


class SpeechError(BridgeError):
    """A provider did not deliver. The message names no content."""

    def __init__(self, kind: Failure, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Recognised:
    """Final result of an utterance. `language` is what the provider detected, if it says."""

    text: str
    language: str | None = None


class SpeechProvider(Protocol):
    """One speech service."""

    @property
    def name(self) -> str:
        """For the `provider` member of events and for metrics."""

    @property
    def where(self) -> str:
        """Where audio goes, for the status page: scheme, host and port, without credentials."""

    def can_translate(self, source: str, target: str) -> bool:
        """Whether `recognise` with this target answers in that language."""

    async def recognise(
        self,
        audio: AsyncIterator[bytes],
        source: str,
        target: str | None,
        interim: Callable[[str], None],
    ) -> Recognised:
        """Hear an utterance to its end. `source` is a language tag or `auto`. Raises SpeechError."""

    async def close(self) -> None: ...


def primary(tag: str) -> str | None:
    """The language of a tag (`en` of `en-US`); None for `auto` and `all`."""
    return None if tag in ("auto", "all") else tag.partition("-")[0].lower()
