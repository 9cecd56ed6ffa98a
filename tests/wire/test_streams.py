"""The grammar of subscriptions and who gets which event (wire/streams.py; wire specification 3.5, 3.6, 6.7 to 6.10)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.test_recorded_traffic import UP
from wire.streams import (
    LOCATION_RATES,
    NAME_MAX,
    OPTIONS_MAX,
    SUBSCRIPTIONS_MAX,
    EventKey,
    Subscription,
    event_key,
    grants,
    highest_rate,
    matches,
    parse_subscription,
    parse_subscriptions,
)


def parsed(entry: object) -> Subscription:
    subscription = parse_subscription(entry)
    assert subscription is not None, entry
    return subscription


@pytest.mark.parametrize(
    ("entry", "stream", "source", "target", "options"),
    [
        ("transcription:en-US", "transcription", "en-US", None, {}),
        ("transcription", "transcription", "en-US", None, {}),
        ("transcription:yue-HK", "transcription", "yue-HK", None, {}),
        ("transcription:auto", "transcription", "auto", None, {}),
        ("transcription:auto?hints=es%2Cfr", "transcription", "auto", None, {"hints": "es,fr"}),
        ("transcription:en-US?no-language-identification=true", "transcription", "en-US", None,
         {"no-language-identification": True}),
        ("transcription:en-US?no-language-identification=true&hints=es-ES%2Cfr-FR", "transcription", "en-US", None,
         {"no-language-identification": True, "hints": "es-ES,fr-FR"}),
        ("translation:es-ES-to-en-US", "translation", "es-ES", "en-US", {}),
        ("translation:all-to-en-US", "translation", "all", "en-US", {}),
        ("translation:all-to-de-DE?no-language-identification=true", "translation", "all", "de-DE",
         {"no-language-identification": True}),
        ("touch_event", "touch_event", None, None, {}),
        ("button_press", "button_press", None, None, {}),
        ("local_transcription", "local_transcription", None, None, {}),
        ("augmentos:*", "augmentos", None, None, {}),
        ("*", "*", None, None, {}),
    ],
)  # fmt: skip
def test_every_form_of_the_grammar(
    entry: str, stream: str, source: str | None, target: str | None, options: dict[str, Any]
) -> None:
    subscription = parsed(entry)
    assert subscription.name == entry
    assert (subscription.stream, subscription.source, subscription.target) == (stream, source, target)
    assert subscription.options == options


def test_all_subscriptions_that_the_real_sdk_was_recorded_with_are_understood_and_keep_their_text() -> None:
    entries = [e for f in UP if f["type"] == "subscription_update" for e in f["subscriptions"]]
    assert len(entries) > 500
    for entry in entries:
        if entry == "translation":  # a probe subscribed to it by hand; it names no languages
            continue
        assert parsed(entry).name == (entry if isinstance(entry, str) else "location_stream")


@pytest.mark.failure("SEC-04")
@pytest.mark.parametrize(
    "entry",
    [None, 5, True, "", [], {}, ["button_press"], {"stream": "location_stream"}, {"stream": 5, "rate": "high"},
     {"stream": "location_stream", "rate": "warp"}, {"stream": "location_stream", "rate": ["high"]},
     {"stream": "transcription:en-US", "rate": "high"}, ":x", "?a=b", "x" * (NAME_MAX + 1),
     "transcription:english", "transcription:en", "transcription:EN-us", "transcription:en-US\n",
     "transcription:en-US:x", "translation", "translation:en-US", "translation:auto-to-en-US",
     "translation:en-US-to-", "translation:en-US-to-all", "translation:es-ES-to-en-US\n",
     "transcription:en-US?" + "&".join(f"k{i}=v" for i in range(OPTIONS_MAX + 1))],
)  # fmt: skip
def test_what_is_no_subscription_is_refused_without_an_exception(entry: object) -> None:
    assert parse_subscription(entry) is None


def test_one_bad_entry_costs_only_itself() -> None:
    good, bad = parse_subscriptions(["button_press", 7, "transcription:klingon", "VAD", "button_press"])
    assert [s.name for s in good] == ["button_press", "VAD"]
    assert bad == [7, "transcription:klingon"]


def test_the_list_is_bounded() -> None:
    good, bad = parse_subscriptions([f"custom:{i}" for i in range(SUBSCRIPTIONS_MAX + 10)])
    assert len(good) == SUBSCRIPTIONS_MAX
    assert len(bad) == 10


@given(st.text(max_size=60) | st.integers() | st.dictionaries(st.text(max_size=8), st.text(max_size=8)))
def test_any_value_gives_a_subscription_or_none(entry: object) -> None:
    subscription = parse_subscription(entry)
    assert subscription is None or isinstance(subscription, Subscription)


TOUCH = {"type": "touch_event", "gesture_name": "double_tap", "device_model": "Even Realities G1"}
ENGLISH = {"type": "transcription", "text": "hello", "transcribeLanguage": "en-US"}
FRENCH = {"type": "transcription", "text": "salut", "transcribeLanguage": "fr-FR"}
ES_EN = {"type": "translation", "transcribeLanguage": "es-ES", "translateLanguage": "en-US"}
EN_EN = {
    "type": "translation",
    "transcribeLanguage": "en-US",
    "translateLanguage": "en-US",
    "didTranslate": False,
}
FIX = {"type": "location_update", "lat": 1.0, "lng": 2.0}


@pytest.mark.parametrize(
    ("event", "reaches", "misses"),
    [
        (TOUCH, ["touch_event", "touch_event:double_tap"], ["touch_event:triple_tap", "button_press"]),
        (ENGLISH,
         ["transcription", "transcription:en-US", "transcription:auto", "transcription:auto?hints=es",
          "transcription:en-US?no-language-identification=true&hints=es-ES%2Cfr-FR"],
         ["transcription:fr-FR", "translation:en-US-to-fr-FR", "local_transcription"]),
        (FRENCH, ["transcription:fr-FR", "transcription:auto"], ["transcription", "transcription:en-US"]),
        ({"type": "transcription", "text": "no language told"}, ["transcription", "transcription:en-US"],
         ["transcription:fr-FR"]),
        (ES_EN,
         ["translation:es-ES-to-en-US", "translation:all-to-en-US", "translation:es-ES-to-en-US?x=true"],
         ["translation:es-ES-to-de-DE", "translation:all-to-de-DE", "translation:en-US-to-es-ES", "transcription"]),
        (EN_EN, ["translation:all-to-en-US", "translation:en-US-to-en-US"], ["translation:es-ES-to-en-US"]),
        (FIX, ["location_update", {"stream": "location_stream", "rate": "high"}], ["calendar_event"]),
        ({"type": "VAD", "status": True}, ["VAD"], ["vad"]),
        ({"type": "something_new"}, ["something_new"], ["something"]),
    ],
)  # fmt: skip
def test_an_event_reaches_exactly_the_subscriptions_that_mean_it(
    event: dict[str, Any], reaches: list[object], misses: list[object]
) -> None:
    key = event_key(event)
    assert [e for e in reaches if not matches(parsed(e), key)] == []
    assert [e for e in misses if matches(parsed(e), key)] == []


def test_a_wildcard_is_only_a_name_here_the_permissions_decide() -> None:
    assert matches(parsed("*"), EventKey("button_press"))
    assert matches(parsed("all"), event_key(FIX))


@pytest.mark.failure("SEC-04")
@pytest.mark.parametrize("value", [None, 5, [], {}])
def test_a_qualifier_of_the_wrong_type_is_no_qualifier(value: object) -> None:
    assert event_key({"type": "touch_event", "gesture_name": value}).qualifier is None
    assert not matches(
        parsed("touch_event:double_tap"), event_key({"type": "touch_event", "gesture_name": value})
    )


def test_the_microphone_is_needed_for_sound_and_speech_not_for_vad() -> None:
    need = {"audio_chunk", "transcription:auto", "translation:all-to-en-US"}
    assert all(parsed(name).needs_audio for name in need)
    assert not any(parsed(name).needs_audio for name in ("VAD", "local_transcription", "button_press", "*"))


@pytest.mark.parametrize(
    ("name", "needed"),
    [("transcription:fr-FR", "MICROPHONE"), ("audio_chunk", "MICROPHONE"), ("VAD", "MICROPHONE"),
     ("translation:all-to-en-US", "MICROPHONE"), ("location_update", "LOCATION"), ("calendar_event", "CALENDAR"),
     ("phone_notification", "READ_NOTIFICATIONS"), ("phone_notification_dismissed", "READ_NOTIFICATIONS"),
     ("button_press", None), ("touch_event:long_press", None)],
)  # fmt: skip
def test_the_permission_of_a_stream(name: str, needed: str | None) -> None:
    assert parsed(name).permission == needed


def test_permissions_grant_what_they_say_and_no_more() -> None:
    assert grants([], None)
    assert grants(["ALL"], "CAMERA")
    assert grants(["NOTIFICATIONS"], "READ_NOTIFICATIONS")
    assert grants(["BACKGROUND_LOCATION"], "LOCATION")
    assert not grants(["LOCATION"], "BACKGROUND_LOCATION")
    assert not grants(["MICROPHONE", "nonsense"], "CAMERA")


def test_the_most_demanding_location_rate_wins() -> None:
    assert highest_rate([]) == "reduced"
    assert highest_rate(["kilometer", "high", "tenMeters"]) == "high"
    assert highest_rate(LOCATION_RATES) == "realtime"
    assert parsed({"stream": "location_stream", "rate": "standard"}).rate == "standard"
