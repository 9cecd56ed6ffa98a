"""wire.streams: any list of subscriptions is sorted into usable ones, kept letter by letter, and refused ones."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import examples, json_values
from wire.streams import (
    NAME_MAX,
    SUBSCRIPTIONS_MAX,
    EventKey,
    event_key,
    grants,
    matches,
    parse_subscription,
    parse_subscriptions,
)

words = st.sampled_from(
    [
        "transcription",
        "translation",
        "touch_event",
        "location_stream",
        "location_update",
        "*",
        "all",
        " ALL",
        "VAD",
    ]
)
grammar = st.builds(
    lambda stream, sep, rest, query: f"{stream}{sep}{rest}{query}",
    words,
    st.sampled_from(["", ":", "::", "?"]),
    st.one_of(
        st.sampled_from(["", "en-US", "auto", "en-US-to-fr-FR", "all-to-de-DE", "-to-"]), st.text(max_size=12)
    ),
    st.sampled_from(["", "?", "?hints=fr", "?a=1&a=2&b", "?%zz=%", "?" + "x=1&" * 40]),
)
entries = st.one_of(grammar, json_values, st.fixed_dictionaries({"stream": json_values, "rate": json_values}))


@given(entries)
@examples(400)
def test_any_entry(entry: Any) -> None:
    parsed = parse_subscription(entry)
    if parsed is None:
        return
    assert len(parsed.name) <= NAME_MAX
    if isinstance(entry, str):
        assert parsed.name == entry
    for key in (
        EventKey(parsed.stream, parsed.qualifier, parsed.source, parsed.target),
        EventKey("button_press"),
    ):
        assert matches(parsed, key) in (True, False)
    assert not grants([], parsed.permission) or parsed.permission is None


@given(st.lists(entries, max_size=12))
@examples(150)
def test_any_list_is_split_without_loss(values: list[Any]) -> None:
    good, bad = parse_subscriptions(values)
    assert len({s.name for s in good}) == len(good) <= SUBSCRIPTIONS_MAX
    assert len(good) + len(bad) <= len(values)


@given(json_values, st.dictionaries(st.text(max_size=12), json_values, max_size=5))
@examples(150)
def test_any_event_has_a_key(kind: Any, rest: dict[str, Any]) -> None:
    for stream in ("touch_event", "transcription", "translation", "button_press"):
        event = {
            **rest,
            "type": stream,
            "gesture_name": kind,
            "transcribeLanguage": kind,
            "translateLanguage": kind,
        }
        assert event_key(event).stream == stream
