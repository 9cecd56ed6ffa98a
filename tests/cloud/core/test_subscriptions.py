"""Who receives what: exact strings, permissions, replacement, the SDK's empty greeting."""

from __future__ import annotations

import orjson
import pytest

from cloud.core.subscriptions import EMPTY_HOLD, Changed, Denied, Subscriptions, envelope
from wire.streams import EventKey

ALL = frozenset({"ALL"})


def subscriptions(*apps: tuple[str, frozenset[str]]) -> Subscriptions:
    subs = Subscriptions("u@x")
    for number, (package, permissions) in enumerate(apps):
        subs.connected(package, f"u@x-{package}", permissions, 10 + number, 0.0)
    return subs


def test_an_event_goes_to_each_app_under_its_own_string() -> None:
    subs = subscriptions(("a", ALL), ("b", ALL))
    subs.update("a", ["transcription:en-US", "transcription"], 5.0)
    subs.update("b", ["transcription:en-US", "transcription:auto?hints=fr"], 5.0)
    routes = {r.stream_type: r.connection_ids for r in subs.routes(EventKey("transcription", source="en-US"))}
    assert routes == {
        "transcription:en-US": (10, 11),
        "transcription": (10,),
        "transcription:auto?hints=fr": (11,),
    }
    assert not [
        r for r in subs.routes(EventKey("transcription", source="fr-FR")) if "auto" not in r.stream_type
    ]


def test_an_envelope_carries_the_event_unparsed() -> None:
    subs = subscriptions(("a", ALL))
    subs.update("a", ["button_press"], 5.0)
    [route] = subs.routes("button_press")
    raw = b'{"type":"button_press" , "n":1.50}'
    made = envelope(route.prefix, b"T", raw)
    assert raw in made
    assert orjson.loads(made) == {
        "type": "data_stream",
        "sessionId": "u@x-a",
        "streamType": "button_press",
        "timestamp": "T",
        "data": {"type": "button_press", "n": 1.5},
    }


@pytest.mark.failure("SUB-05")
def test_a_stream_without_its_permission_is_denied_and_the_rest_works() -> None:
    subs = subscriptions(("a", frozenset({"LOCATION"})))
    effects = subs.update("a", ["audio_chunk", "button_press", "location_update"], 5.0)
    assert effects[0] == Denied("a", (("audio_chunk", "MICROPHONE"),))
    assert subs.of("a") == ["button_press", "location_update"]
    assert subs.audio_receivers == ()
    subs.permissions_changed("a", frozenset())
    assert subs.of("a") == ["button_press"]


@pytest.mark.failure("SEC-10")
def test_a_wildcard_gets_only_what_the_app_may_have() -> None:
    subs = subscriptions(("a", frozenset()))
    subs.update("a", ["*"], 5.0)
    assert subs.routes("button_press")
    assert not subs.routes("phone_notification")
    assert not subs.routes("location_update")
    assert not subs.needs_audio


@pytest.mark.failure("SUB-01")
def test_an_empty_list_right_after_a_reconnect_is_held_back_and_later_ones_count_at_once() -> None:
    subs = subscriptions(("a", ALL))
    subs.update("a", ["button_press"], 1.0)
    subs.lost("a")
    subs.connected("a", "u@x-a", ALL, 20, 10.0)
    assert subs.update("a", [], 10.1) == []
    assert subs.of("a") == ["button_press"]
    assert subs.deadline == 10.0 + EMPTY_HOLD
    assert subs.handle_deadline(10.0 + EMPTY_HOLD) == [Changed("a", ())]
    subs.update("a", ["button_press"], 20.0)
    subs.update("a", [], 20.1)
    assert subs.of("a") == []


@pytest.mark.failure("SUB-03")
def test_the_last_update_wins_and_bad_entries_are_ignored() -> None:
    subs = subscriptions(("a", ALL))
    for entries in (["button_press"], ["VAD"], ["nonsense:", 5, None, "transcription:xx", "head_position"]):
        subs.update("a", entries, 5.0)
    assert subs.of("a") == ["nonsense:", "head_position"]  # a name that nobody knows is harmless


def test_location_stream_and_update_are_two_strings_of_one_event() -> None:
    subs = subscriptions(("a", ALL))
    subs.update("a", ["location_update", {"stream": "location_stream", "rate": "high"}], 5.0)
    assert {r.stream_type for r in subs.routes("location_update")} == {"location_update", "location_stream"}
    assert subs.location_tier == "high"
    subs.removed("a")
    assert subs.location_tier == "reduced"
