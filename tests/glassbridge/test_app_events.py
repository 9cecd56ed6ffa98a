"""Subscriptions follow from handlers, exactly."""

from __future__ import annotations

import pytest

from glassbridge.app import Events


def names(events: Events) -> list[object]:
    return events.subscriptions()


def test_each_registration_subscribes_with_the_wires_own_string() -> None:
    events = Events(lambda: None)
    events.on_transcription(print)
    events.on_transcription(print, language="auto", hints=("es", "fr"))
    events.on_transcription(print, identify_language=False)
    events.on_translation(print, source="es-ES", target="en-US")
    events.on_translation(print)
    events.on_touch(print, "double_tap")
    events.on_location(print, rate="high")
    events.on_location(print)
    assert names(events) == [
        "transcription:en-US",
        "transcription:auto?hints=es%2Cfr",
        "transcription:en-US?no-language-identification=true",
        "translation:es-ES-to-en-US",
        "translation:all-to-en-US",
        "touch_event:double_tap",
        {"stream": "location_stream", "rate": "high"},
        "location_update",
    ]


def test_the_last_handler_of_a_stream_takes_its_subscription_along() -> None:
    changes: list[int] = []
    events = Events(lambda: changes.append(1))
    first = events.on_button_press(print)
    second = events.on_button_press(repr)
    first()
    first()
    assert names(events) == ["button_press"]
    second()
    assert names(events) == []


def test_a_language_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="en-US"):
        Events(lambda: None).on_transcription(print, language="english")
    with pytest.raises(ValueError, match="realtime"):
        Events(lambda: None).on_location(print, rate="often")


def test_an_event_under_another_name_reaches_nobody_and_is_counted() -> None:
    events = Events(lambda: None)
    events.on_transcription(print, language="de-DE")
    assert events.calls("transcription:en-US", {"text": "x"}) == []
    assert events.unclaimed == 1
