"""Recognition per session: one recogniser per pair, order, ids, failures and what the apps get."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from cloud.config import SpeechConfig
from cloud.metrics import Metrics
from cloud.speech import service as speech_service
from cloud.speech.provider import Failure, Recognised, SpeechError, primary
from cloud.speech.service import WAITING_MAX, SessionSpeech, SpeechService, upstream
from tests.cloud.test_speech_voice import noise, tone
from tests.support.waiting import until
from wire.backoff import BackoffPolicy

Need = frozenset[tuple[str, str | None]]


class Listener:
    """A provider in memory: hears whole utterances and answers as a test says."""

    name = "memory"
    where = "memory:"

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None, int]] = []
        self.active = 0
        self.active_max = 0
        self.failures: list[SpeechError | Exception] = []
        self.texts: list[str] = []
        self.partials: list[str] = []
        self.language: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def can_translate(self, source: str, target: str) -> bool:
        return primary(target) == "en" and primary(source) != "en"

    async def recognise(
        self, audio: AsyncIterator[bytes], source: str, target: str | None, interim: Callable[[str], None]
    ) -> Recognised:
        self.active += 1
        self.active_max = max(self.active_max, self.active)
        try:
            if self.failures:
                raise self.failures.pop(0)
            for text in self.partials:
                interim(text)
            size = 0
            async for piece in audio:
                size += len(piece)
            await self.gate.wait()
            self.heard.append((source, target, size))
            return Recognised(self.texts.pop(0) if self.texts else f"words {len(self.heard)}", self.language)
        finally:
            self.active -= 1

    async def close(self) -> None:
        pass


class Rig:
    def __init__(self) -> None:
        self.provider = Listener()
        self.service = SpeechService(self.provider, Metrics(), timeout=5.0)
        self.events: list[Mapping[str, Any]] = []
        self.voice: list[bool] = []
        self.session = self.service.session("u@x", self.events.append, self.voice.append)

    def say(self, seconds: float = 0.4) -> None:
        self.session.feed(noise(0.2) + tone(seconds) + noise(0.9))

    def finals(self) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["isFinal"]]


@contextlib.asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        made.provider.gate.set()
        await made.session.close()
        await made.service.close()


def need(*pairs: tuple[str, str | None]) -> Need:
    return frozenset(pairs)


async def test_an_utterance_becomes_interim_and_final_transcripts_with_one_id() -> None:
    async with rig() as r:
        r.provider.partials = ["where", "where", "where is"]
        r.provider.texts = ["where is the station"]
        r.session.need(need(("en-US", None)))
        r.say()
        await until(r.finals, "a final transcript")
        assert [event["text"] for event in r.events] == ["where", "where is", "where is the station"]
        assert len({event["utteranceId"] for event in r.events}) == 1
        final = r.events[-1]
        assert final["type"] == "transcription"
        assert final["transcribeLanguage"] == "en-US"
        assert final["provider"] == "memory"
        assert final["endTime"] - final["startTime"] == final["duration"] > 400
        assert r.voice == [True, False]


async def test_without_a_need_nothing_is_heard() -> None:
    async with rig() as r:
        r.say()
        r.session.need(need(("en-US", None)))
        r.session.need(need())
        r.say()
        await asyncio.sleep(0.02)
        assert r.provider.heard == []
        assert r.voice == []


@pytest.mark.failure("AUD-05")
async def test_one_recogniser_per_pair_and_empty_results_are_kept_back() -> None:
    async with rig() as r:
        r.session.need(need(("en-US", None)))
        r.session.need(need(("en-US", None)))
        r.provider.texts = ["", "  ", "words"]
        for _ in range(3):
            r.say()
        await until(lambda: len(r.provider.heard) == 3, "three utterances heard")
        await until(lambda: r.finals()[-1:] and r.finals()[-1]["text"] == "words", "the last one is told")
        assert r.provider.active_max == 1
        assert [event["text"] for event in r.finals()] in (["words"], ["  ", "words"])


async def test_finals_come_in_the_order_spoken() -> None:
    async with rig() as r:
        r.session.need(need(("en-US", None)))
        r.provider.gate.clear()
        for _ in range(3):
            r.say()
        await asyncio.sleep(0.02)
        assert r.provider.active == 1
        r.provider.gate.set()
        await until(lambda: len(r.finals()) == 3, "three finals")
        starts = [event["startTime"] for event in r.finals()]
        assert starts == sorted(starts)
        assert len({event["utteranceId"] for event in r.finals()}) == 3


@pytest.mark.failure("LIV-06")
async def test_a_slow_provider_loses_the_oldest_waiting_utterances() -> None:
    async with rig() as r:
        r.session.need(need(("en-US", None)))
        r.provider.gate.clear()
        r.say()
        await until(lambda: r.provider.active == 1, "the first is being recognised")
        for _ in range(WAITING_MAX + 3):
            r.say()
        r.provider.gate.set()
        await until(lambda: len(r.finals()) == 1 + WAITING_MAX, "what was kept")
        assert r.service.state.dropped == 3


async def test_what_cannot_be_translated_is_delivered_as_spoken_and_says_so() -> None:
    async with rig() as r:
        r.session.need(need(("en-US", "es-ES"), ("en-US", "en-US")))
        r.provider.texts = ["hello"]
        r.say()
        await until(lambda: len(r.finals()) == 2, "both translations")
        assert r.provider.heard[0][:2] == ("en-US", None)
        for event in r.finals():
            assert event["type"] == "translation"
            assert event["didTranslate"] is False
            assert event["text"] == event["originalText"] == "hello"
        assert {event["translateLanguage"] for event in r.finals()} == {"es-ES", "en-US"}


async def test_what_can_be_translated_is_asked_for() -> None:
    async with rig() as r:
        r.session.need(need(("es-ES", "en-US"), ("es-ES", None)))
        r.say()
        await until(lambda: len(r.finals()) == 2, "transcript and translation")
        assert {(source, target) for source, target, _ in r.provider.heard} == {
            ("es-ES", None),
            ("es-ES", "en-US"),
        }
        translation = next(event for event in r.finals() if event["type"] == "translation")
        assert translation["didTranslate"] is True
        assert translation["transcribeLanguage"] == "es-ES"


async def test_a_detected_language_is_reported() -> None:
    async with rig() as r:
        r.provider.language = "fr"
        r.session.need(need(("auto", None)))
        r.say()
        await until(r.finals, "a transcript")
        assert r.finals()[0]["transcribeLanguage"] == r.finals()[0]["detectedLanguage"] == "fr"


@pytest.mark.failure("AUD-05")
@pytest.mark.parametrize(
    ("needs", "asked"),
    [
        (need(("auto", None)), need(("auto", None))),
        (need(("auto", None), ("en-US", None)), need(("en-US", None))),
        (need(("all", "es-ES")), need(("auto", None))),
        (need(("all", "en-US"), ("auto", None)), need(("auto", "en-US"), ("auto", None))),
        (need(("en-US", "es-ES"), ("en-US", None)), need(("en-US", None))),
        (need(("fr-FR", "en-GB"), ("en-US", None)), need(("fr-FR", "en-GB"), ("en-US", None))),
    ],
)
async def test_needs_become_as_few_recognisers_as_possible(needs: Need, asked: Need) -> None:
    assert upstream(needs, Listener()) == asked


async def test_a_late_need_hears_the_running_utterance() -> None:
    async with rig() as r:
        r.session.need(need(("en-US", None)))
        r.session.feed(noise(0.2) + tone(0.5))
        r.session.need(need(("en-US", None), ("de-DE", None)))
        r.session.feed(tone(0.2) + noise(0.9))
        await until(lambda: len(r.finals()) == 2, "both languages")
        assert {event["transcribeLanguage"] for event in r.finals()} == {"en-US", "de-DE"}


async def test_audio_that_just_stops_ends_its_utterance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_service, "AUDIO_STOPS", 0.02)
    async with rig() as r:
        r.session.need(need(("en-US", None)))
        r.session.feed(noise(0.2) + tone(0.5))
        await until(r.finals, "a final transcript")
        assert r.voice == [True, False]


@pytest.mark.failure("AUD-02")
async def test_a_failing_provider_is_left_alone_then_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_service, "RETRY", BackoffPolicy(0.05, 2.0, 1.0, 0.0))
    async with rig() as r:
        r.service._backoff.policy = BackoffPolicy(0.05, 2.0, 1.0, 0.0)
        r.provider.failures = [SpeechError(Failure.TRANSIENT, "cannot connect")]
        r.session.need(need(("en-US", None)))
        r.say()
        await until(lambda: r.service.state.state == "unreachable", "the failure is visible")
        assert r.service.status()["detail"] == "cannot connect"
        await until(r.finals, "the same utterance, a little later")
        assert r.service.state.state == "ok"
        assert r.service.state.failures == 1


@pytest.mark.failure("AUD-02")
async def test_a_misconfigured_provider_is_not_hammered() -> None:
    async with rig() as r:
        r.provider.failures = [SpeechError(Failure.CONFIGURATION, "status 401")] * 50
        r.session.need(need(("en-US", None)))
        for _ in range(20):
            r.say()
            await asyncio.sleep(0)
        await until(lambda: r.service.state.dropped >= 15, "the rest is dropped, not sent")
        assert len(r.provider.failures) == 49, "one attempt"
        assert r.service.state.state == "misconfigured"
        assert r.service.state.until > asyncio.get_running_loop().time() + 200


async def test_a_refused_utterance_is_nobody_elses_problem() -> None:
    async with rig() as r:
        r.provider.failures = [SpeechError(Failure.UTTERANCE, "status 400")]
        r.session.need(need(("en-US", None)))
        r.say()
        r.say()
        await until(r.finals, "the second utterance")
        assert len(r.finals()) == 1
        assert r.service.state.state == "ok"


@pytest.mark.failure("PRO-01")
async def test_an_unexpected_error_of_a_provider_is_contained(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as r:
        r.service._backoff.policy = BackoffPolicy(0.01, 2.0, 1.0, 0.0)
        r.provider.failures = [ValueError("bug")]
        r.session.need(need(("en-US", None)))
        r.say()
        await until(r.finals, "a second attempt")
        assert "failed unexpectedly" in caplog.text


async def test_a_result_that_never_comes_is_given_up() -> None:
    async with rig() as r:
        r.service.timeout = 0.05
        r.service._backoff.policy = BackoffPolicy(60.0, 2.0, 60.0, 0.0)
        r.provider.gate.clear()
        r.session.need(need(("en-US", None)))
        r.say()
        await until(lambda: r.service.state.state == "unreachable", "given up")
        assert "no result" in r.service.state.detail
        assert r.provider.active == 0, "the request was cancelled"


async def test_leaving_a_language_cancels_its_work() -> None:
    async with rig() as r:
        r.provider.gate.clear()
        r.session.need(need(("en-US", None)))
        r.say()
        await until(lambda: r.provider.active == 1, "listening")
        r.session.need(need())
        await until(lambda: r.provider.active == 0, "cancelled")
        assert r.events == []


@pytest.mark.parametrize(
    ("provider", "where"),
    [
        ("off", None),
        ("text", None),
        ("openai:http://127.0.0.1:9000/v1", "http://127.0.0.1:9000"),
        ("wyoming:tcp://10.0.0.5:10300", "tcp://10.0.0.5:10300"),
    ],
)
async def test_the_configuration_names_the_provider(provider: str, where: str | None) -> None:
    made = SpeechService.make(SpeechConfig(provider=provider), Metrics())
    assert (made.provider.where if made else None) == where
    if made is not None:
        assert isinstance(made.session("u@x", lambda event: None, lambda on: None), SessionSpeech)
        await made.close()
