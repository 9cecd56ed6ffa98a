"""Recognition for all sessions: one detector per session, one recogniser per language pair, one verdict on the provider.

Rules: audio leaves only while somebody speaks. Per session and language pair at most one utterance is being recognised;
a few more may wait, the oldest of them is dropped when there are too many. Results of a pair come in the order in which
they were spoken, interim ones carry the id of their final one, empty ones are kept back. A provider that fails is left
alone for a growing time by everyone, and its state is visible. Sources: wire spec 3.7, 6.10; failure catalogue AUD-01,
AUD-02, AUD-05.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloud.config import SpeechConfig
from cloud.metrics import Metrics
from cloud.speech.openai import OpenAiProvider
from cloud.speech.provider import Failure, Recognised, SpeechError, SpeechProvider
from cloud.speech.voice import Began, Ended, Heard, VoiceDetector
from cloud.speech.wyoming import WyomingProvider
from wire.backoff import Backoff, BackoffPolicy

log = logging.getLogger(__name__)

#: Utterances of one pair that may wait behind the one being recognised: at 15 s each a minute of speech.
WAITING_MAX: Final = 4
#: At most four connects in the first minute of an outage (AUD-02): after 0, 5, 15 and 35 s.
RETRY: Final = BackoffPolicy(first=5.0, factor=2.0, ceiling=60.0, jitter=0.2)
#: A refused key or wrong URL is tried again rarely: perhaps the operator mended the other end.
MISCONFIGURED_PAUSE: Final = 300.0
#: An utterance that failed is said again if it is younger than this; older captions only confuse.
STALE: Final = 10.0
#: Audio that stops without silence (microphone off) ends its utterance after this time, seconds.
AUDIO_STOPS: Final = 1.0


class _Utterance:
    """The audio of one utterance: grows while it is spoken, can be read from its start more than once."""

    def __init__(self, at: int, now: float) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.started_at = at
        self.ended_at: int | None = None
        self.ended_clock: float | None = None
        self.made = now
        self._pieces: list[bytes] = []
        self._more = asyncio.Event()

    def add(self, pcm: bytes) -> None:
        self._pieces.append(pcm)
        self._more.set()

    def end(self, at: int, now: float) -> None:
        self.ended_at, self.ended_clock = at, now
        self._more.set()

    async def audio(self) -> AsyncIterator[bytes]:
        """All of it, waiting for what is still to be said; the detector bounds its length."""
        position = 0
        while True:
            while position < len(self._pieces):
                position += 1
                yield self._pieces[position - 1]
            if self.ended_at is not None:
                return
            self._more.clear()
            await self._more.wait()


@dataclass(slots=True)
class ProviderState:
    """What is known of the provider now. `until` is the loop time before which nobody tries."""

    state: str = "ok"  # ok, unreachable, misconfigured
    detail: str = ""
    since: float = field(default_factory=time.time)
    until: float = 0.0
    failures: int = 0
    dropped: int = 0


class SpeechService:
    """Recognition with one provider; `session` is the factory that the hub calls for each of its sessions."""

    def __init__(self, provider: SpeechProvider, metrics: Metrics, *, timeout: float) -> None:
        """`timeout`: seconds from the end of an utterance to its result."""
        self.provider = provider
        self.state = ProviderState()
        self.timeout = timeout
        self._backoff = Backoff(RETRY)
        self._seconds = metrics.histogram("speech_seconds").labels(provider.name)
        self._failed = metrics.counter("speech_failures_total").labels(provider.name)

    @classmethod
    def make(cls, config: SpeechConfig, metrics: Metrics) -> SpeechService | None:
        """The service that `speech.provider` names; None for `off` and `text`, which hear nothing."""
        kind, _, rest = config.provider.partition(":")
        provider: SpeechProvider
        match kind:
            case "openai":
                provider = OpenAiProvider(
                    rest,
                    model=config.model,
                    api_key=config.api_key.get_secret_value() if config.api_key else None,
                    timeout=config.timeout,
                    interim=config.interim,
                )
            case "wyoming":
                host, _, port = rest.removeprefix("tcp://").rpartition(":")
                provider = WyomingProvider(host, int(port))
            case _:
                return None
        return cls(provider, metrics, timeout=config.timeout)

    def session(
        self,
        user_id: str,
        on_result: Callable[[Mapping[str, Any]], None],
        on_voice: Callable[[bool], None],
    ) -> SessionSpeech:
        """Recognition for one session: results as `transcription` and `translation` objects, and voice on and off."""
        return SessionSpeech(self, on_result, on_voice)

    def status(self) -> dict[str, Any]:
        """For the console: where audio goes and how that goes."""
        return {
            "provider": self.provider.name,
            "where": self.provider.where,
            "state": self.state.state,
            "detail": self.state.detail,
            "since": self.state.since,
            "failures": self.state.failures,
            "dropped": self.state.dropped,
        }

    async def close(self) -> None:
        await self.provider.close()

    # ---- the verdict

    def succeeded(self, seconds: float | None) -> None:
        self._backoff.reset()
        if seconds is not None:
            self._seconds.observe(seconds)
        if self.state.state != "ok":
            lasted = time.time() - self.state.since
            log.info("speech provider %s is back after %.0f s", self.provider.where, lasted)
            self.state.state, self.state.detail, self.state.since = "ok", "", time.time()

    def failed(self, error: SpeechError, now: float) -> None:
        self._failed.inc()
        self.state.failures += 1
        if error.kind is Failure.UTTERANCE:
            log.debug("speech provider: %s", error)
            return
        if now < self.state.until:
            return  # another session found out already
        if error.kind is Failure.CONFIGURATION:
            self.state.until = now + MISCONFIGURED_PAUSE
        else:
            self.state.until = now + self._backoff.next(random.random())
        if self.state.state == "ok":
            log.warning("speech provider %s: %s", self.provider.where, error)
            self.state.since = time.time()
        self.state.state, self.state.detail = error.kind.value, str(error)


class SessionSpeech:
    """Implements `cloud.session_entry.SpeechFeed`."""

    def __init__(
        self,
        service: SpeechService,
        on_result: Callable[[Mapping[str, Any]], None],
        on_voice: Callable[[bool], None],
    ) -> None:
        self._service = service
        self._on_result = on_result
        self._on_voice = on_voice
        self._loop = asyncio.get_running_loop()
        self._detector = VoiceDetector()
        self._needs: frozenset[tuple[str, str | None]] = frozenset()
        self._pairs: dict[tuple[str, str | None], _Pair] = {}
        self._utterance: _Utterance | None = None
        self._silence: asyncio.TimerHandle | None = None
        self.waited: float | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def need(self, languages: frozenset[tuple[str, str | None]]) -> None:
        """Which (source, target or None) apps want; replaces what was wanted before."""
        self._needs = languages
        wanted = upstream(languages, self._service.provider)
        for key in [key for key in self._pairs if key not in wanted]:
            self._leave(self._pairs.pop(key))
        for key in wanted:
            if key not in self._pairs:
                pair = self._pairs[key] = _Pair(self._service, *key, self._result)
                if self._utterance is not None:
                    pair.hear(self._utterance)
        if not self._pairs:
            self._stop_listening()

    def feed(self, pcm: bytes) -> None:
        """Audio of the session, in order, any size."""
        if not self._pairs:
            return
        now = self._loop.time()
        for event in self._detector.feed(pcm):
            match event:
                case Began(at):
                    self._utterance = _Utterance(at, now)
                    for pair in self._pairs.values():
                        pair.hear(self._utterance)
                    self._on_voice(True)
                case Heard(heard):
                    if self._utterance is not None:
                        self._utterance.add(heard)
                case Ended(at, paused):
                    self._end(at)
                    if paused:
                        self._on_voice(False)
        if self._utterance is not None:
            if self._silence is not None:
                self._silence.cancel()
            self._silence = self._loop.call_later(AUDIO_STOPS, self._stop_listening)

    def _end(self, at: int) -> None:
        if self._utterance is not None:
            self._utterance.end(at, self._loop.time())
            self._utterance = None
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _stop_listening(self) -> None:
        for event in self._detector.flush():
            if isinstance(event, Ended):
                self._end(event.at)
                self._on_voice(False)

    def _result(
        self, key: tuple[str, str | None], utterance: _Utterance, result: Recognised, final: bool
    ) -> None:
        """One result of a pair becomes an event for each need that this pair serves."""
        if not result.text:
            return
        ended = utterance.ended_clock
        self.waited = self._loop.time() - ended if final and ended is not None else None
        source, target = key
        language = result.language or source if source in ("auto", "all") else source
        end = utterance.ended_at if utterance.ended_at is not None else self._detector.now
        base: dict[str, Any] = {
            "text": result.text,
            "isFinal": final,
            "utteranceId": utterance.id,
            "transcribeLanguage": language,
            "startTime": utterance.started_at,
            "endTime": end,
            "duration": max(0, end - utterance.started_at),
            "provider": self._service.provider.name,
        }
        if result.language:
            base["detectedLanguage"] = result.language
        if target is not None:
            self._on_result(
                {"type": "translation", **base, "translateLanguage": target, "didTranslate": True}
            )
            return
        if any(t is None and _serves(source, s) for s, t in self._needs):
            self._on_result({"type": "transcription", **base})
        for wanted in sorted({t for s, t in self._needs if t is not None and _serves(source, s)}):
            if (source, wanted) not in self._pairs:
                # This provider cannot translate that: the words arrive as they were spoken, and say so.
                untranslated = {
                    "translateLanguage": wanted,
                    "didTranslate": False,
                    "originalText": result.text,
                }
                self._on_result({"type": "translation", **base, **untranslated})

    def _leave(self, pair: _Pair) -> None:
        task = pair.stop()
        if task is not None:
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        self._needs = frozenset()
        self._stop_listening()
        for pair in self._pairs.values():
            self._leave(pair)
        self._pairs.clear()
        await asyncio.gather(*self._leaving, return_exceptions=True)


def upstream(
    needs: frozenset[tuple[str, str | None]], provider: SpeechProvider
) -> frozenset[tuple[str, str | None]]:
    """What to ask of the provider for these needs.

    A pair that it cannot translate is served by plain recognition of its source. `auto` and `all` get no recogniser of
    their own beside a definite language: its events reach them anyway, and two would give every sentence twice.
    """
    asked = {
        (source, target if target is not None and provider.can_translate(source, target) else None)
        for source, target in needs
    }
    asked = {("auto" if source == "all" else source, target) for source, target in asked}
    definite = {target for source, target in asked if source != "auto"}
    return frozenset(
        (source, target) for source, target in asked if source != "auto" or target not in definite
    )


def _serves(source: str, wanted: str) -> bool:
    return wanted in (source, "all", "auto") or source == "auto"


class _Pair:
    """One language pair of one session: a queue of utterances and at most one task that works on it."""

    def __init__(
        self,
        service: SpeechService,
        source: str,
        target: str | None,
        on_result: Callable[[tuple[str, str | None], _Utterance, Recognised, bool], None],
    ) -> None:
        self._service = service
        self._source = source
        self._target = target
        self._on_result = on_result
        self._waiting: deque[_Utterance] = deque()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def hear(self, utterance: _Utterance) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.popleft()
            self._service.state.dropped += 1
        self._waiting.append(utterance)
        if self._task is None:
            self._task = self._loop.create_task(self._work(), name=f"speech {self._source}")

    def stop(self) -> asyncio.Task[None] | None:
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._recognise(self._waiting.popleft())
        finally:
            self._task = None

    async def _recognise(self, utterance: _Utterance) -> None:
        """Twice at most, and never while the provider is to be left alone."""
        service = self._service
        for _ in range(2):
            pause = service.state.until - self._loop.time()
            if pause > 0:
                if self._loop.time() + pause - utterance.made > STALE:
                    service.state.dropped += 1
                    return
                await asyncio.sleep(pause)
            try:
                result = await self._once(utterance)
            except SpeechError as error:
                service.failed(error, self._loop.time())
                if error.kind is Failure.UTTERANCE:
                    return
                continue
            ended = utterance.ended_clock
            service.succeeded(self._loop.time() - ended if ended is not None else None)
            self._on_result((self._source, self._target), utterance, result, True)
            return
        service.state.dropped += 1

    async def _once(self, utterance: _Utterance) -> Recognised:
        said = ""

        def interim(text: str) -> None:
            nonlocal said
            text = text.strip()
            if text and text != said:
                said = text
                self._on_result((self._source, self._target), utterance, Recognised(text), False)

        listening = asyncio.ensure_future(
            self._service.provider.recognise(utterance.audio(), self._source, self._target, interim)
        )
        try:
            # The utterance itself is bounded by the detector; what is limited here is the wait for its result.
            while not listening.done():
                ended = utterance.ended_clock
                left = 1.0 if ended is None else ended + self._service.timeout - self._loop.time()
                if left <= 0:
                    raise SpeechError(Failure.TRANSIENT, f"no result in {self._service.timeout:g} s")
                await asyncio.wait([listening], timeout=min(left, 1.0))
            return listening.result()
        except SpeechError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            log.exception("speech provider %s failed unexpectedly", self._service.provider.name)
            raise SpeechError(Failure.TRANSIENT, type(error).__name__) from error
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
