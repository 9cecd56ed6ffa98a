"""Words on their way into a session: results of recognition, and sentences that somebody types instead of speaking.

Rules: what was said is passed on and never kept; the journal learns languages and times only.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from cloud.figures import Figures
from cloud.journal import Journal
from cloud.session_entry import Feed, SessionEntry, SpeechFactory


class Spoken:
    """`factory`: recognition for a session, if there is any; `clock`: monotonic seconds."""

    def __init__(
        self,
        *,
        factory: SpeechFactory | None,
        feed: Feed,
        journal: Journal,
        figures: Figures,
        clock: Callable[[], float],
    ) -> None:
        self._factory = factory
        self._feed = feed
        self._journal = journal
        self._figures = figures
        self._clock = clock

    def listen(self, entry: SessionEntry) -> None:
        """A session begins: what is recognised in its audio is heard from now on."""
        if self._factory is not None:
            entry.speech = self._factory(
                entry.session.user_id,
                lambda event: self._heard(entry, event),
                lambda speaking: self._feed(entry, entry.session.voice, speaking),
            )

    def needs(self, entry: SessionEntry, languages: frozenset[tuple[str, str | None]]) -> None:
        """The apps of a session together need these languages."""
        if entry.speech is not None:
            entry.speech.need(languages)
        self._journal.note(
            entry, "speech", {"languages": sorted(f"{s}>{t}" if t else s for s, t in languages)}
        )

    def _heard(self, entry: SessionEntry, event: Mapping[str, Any]) -> None:
        """A result of recognition; the time of the final one is a hop."""
        waited = entry.speech.waited if entry.speech is not None else None
        if event.get("isFinal") and event.get("type") == "transcription":
            if waited is not None:
                self._figures.provider.observe(waited)
            clock = entry.session.hops.edge_clock or {}
            self._journal.note(
                entry,
                "transcript",
                {
                    "language": event.get("transcribeLanguage"),
                    "provider": event.get("provider"),
                    "provider_ms": None if waited is None else round(waited * 1000, 1),
                    "audio_ms": clock.get("audio_ms"),
                    "rtt_ms": clock.get("rtt_ms"),
                },
            )
        self._feed(entry, entry.session.speech, event)

    def typed(
        self, entry: SessionEntry, text: str, language: str, *, final: bool, utterance: str | None
    ) -> None:
        """Typed words become a transcript. `utterance`: further words of the same sentence."""
        session = entry.session
        at = round((self._clock() - session.started_at) * 1000)
        if utterance is None or entry.typing is None or entry.typing[0] != utterance:
            entry.typing = (utterance or secrets.token_hex(6), at)
            self._feed(entry, session.voice, True)
        number, began = entry.typing
        event = {
            "type": "transcription",
            "text": text,
            "utteranceId": number,
            "transcribeLanguage": language,
            "startTime": began,
            "endTime": at,
            "duration": at - began,
            "provider": "text",
        }
        self._feed(entry, session.speech, {**event, "isFinal": False})
        if not final:
            return
        entry.typing = None
        self._heard(entry, {**event, "isFinal": True})
        # Typed words can only be passed on untranslated; the apps see that.
        for source, target in session.subscriptions.speech:
            if target is not None and source in ("all", language):
                translated = {
                    **event,
                    "type": "translation",
                    "originalText": text,
                    "translateLanguage": target,
                    "didTranslate": False,
                    "isFinal": True,
                }
                self._feed(entry, session.speech, translated)
        self._feed(entry, session.voice, False)
