"""Limits come first, JSON second, the model last (wire/codec.py)."""

from __future__ import annotations

import json
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.codec import (
    DEPTH_MAX,
    TEXT_BYTES_MAX,
    data_stream,
    decode,
    display_event,
    encode,
    encode_object,
    load_object,
)
from wire.errors import ErrorCode, ProtocolError
from wire.messages import ALL, APP_TO_CLOUD, CLOUD_TO_APP, GLASSES_TO_CLOUD
from wire.messages.cloud_to_glasses import DisplayEvent
from wire.messages.glasses_to_cloud import ButtonPress


def nested(levels: int) -> bytes:
    return b'{"type":"x","v":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: b.decode()])
def test_every_buffer_kind_decodes_the_same(kind: Any) -> None:
    frame = b'{"type":"button_press","buttonId":"main","pressType":"short","timestamp":1}'
    assert decode(GLASSES_TO_CLOUD, kind(frame)) == decode(GLASSES_TO_CLOUD, frame)


def test_the_size_limit_counts_bytes_and_comes_before_json() -> None:
    exact = b'{"type":"' + b"x" * (TEXT_BYTES_MAX - 11) + b'"}'
    assert len(exact) == TEXT_BYTES_MAX
    load_object(exact)
    with pytest.raises(ProtocolError) as caught:
        load_object(exact[:-1] + b" }")
    assert caught.value.code is ErrorCode.TOO_LARGE
    with pytest.raises(ProtocolError) as caught:
        load_object("é" * 51, bytes_max=100)  # no JSON either: the size is named first
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_nesting_is_bounded() -> None:
    load_object(nested(DEPTH_MAX))
    for levels in (DEPTH_MAX + 1, 2_000, 500_000):
        with pytest.raises(ProtocolError) as caught:
            load_object(nested(levels))
        assert caught.value.code is ErrorCode.MALFORMED_MESSAGE


def test_brackets_inside_a_text_are_no_nesting() -> None:
    assert load_object(orjson.dumps({"type": "x", "v": "[" * 1000 + "{" * 1000}))["v"].startswith("[[")


@pytest.mark.failure("SEC-04")
@pytest.mark.parametrize(
    "frame",
    [b"", b"not json", b"[]", b"null", b"5", b'"text"', b"{", b"true", b"\xff\xfe", b'{"type":"x"} {}', b"{'type':1}",
     b'{"type":"x","v":NaN}', b'{"type":"x","v":Infinity}', b'{"type":"x","v":1e999}', b'{"type":"x","v":"\\ud800"}',
     b'{"type":"x"\x00}'],
)  # fmt: skip
def test_what_is_no_json_object_is_refused_as_malformed(frame: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(GLASSES_TO_CLOUD, frame)
    assert caught.value.code is ErrorCode.MALFORMED_MESSAGE


@pytest.mark.failure("SEC-04")
@pytest.mark.parametrize("kind", [None, 5, "", [], {}, True, ["button_press"]])
def test_a_type_that_is_no_text_is_refused_by_name(kind: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(APP_TO_CLOUD, orjson.dumps({"type": kind}))
    assert caught.value.field == "type"
    with pytest.raises(ProtocolError):
        decode(APP_TO_CLOUD, b"{}")


@pytest.mark.parametrize("kind", ["__proto__", "constructor", "button_press ", "BUTTON_PRESS", "x" * 10_000])
def test_an_unknown_type_is_no_error(kind: str) -> None:
    incoming = decode(GLASSES_TO_CLOUD, orjson.dumps({"type": kind, "deep": {"a": [1]}}))
    assert incoming.message is None
    assert incoming.type == kind


def test_a_bad_member_is_named_by_its_path() -> None:
    cases = [
        (GLASSES_TO_CLOUD, {"type": "button_press", "buttonId": {}, "pressType": "short"}, "buttonId"),
        (GLASSES_TO_CLOUD, {"type": "head_position", "position": "sideways"}, "position"),
        (GLASSES_TO_CLOUD, {"type": "start_app"}, "packageName"),
        (APP_TO_CLOUD, {"type": "subscription_update", "subscriptions": "all"}, "subscriptions"),
        (APP_TO_CLOUD, {"type": "display_event", "layout": None}, "layout"),
        (APP_TO_CLOUD, {"type": "display_event", "layout": {}, "durationMs": -1}, "durationMs"),
        (
            APP_TO_CLOUD,
            {"type": "app_room_join", "roomId": "r", "roomConfig": {"maxUsers": 0}},
            "roomConfig.maxUsers",
        ),
    ]
    for registry, payload, path in cases:
        with pytest.raises(ProtocolError) as caught:
            decode(registry, orjson.dumps(payload))
        assert caught.value.field == path
        assert path in caught.value.message


def test_an_error_never_repeats_what_the_peer_wrote() -> None:
    secret = "the-private-key-material"
    with pytest.raises(ProtocolError) as caught:
        decode(
            APP_TO_CLOUD,
            orjson.dumps({"type": "tpa_connection_init", "packageName": "p", "apiKey": [secret]}),
        )
    assert secret not in caught.value.message
    with pytest.raises(ProtocolError) as caught:
        load_object(b'{"type": ' + secret.encode())
    assert secret not in caught.value.message


def test_the_test_clients_lower_case_vad_is_vad() -> None:
    incoming = decode(GLASSES_TO_CLOUD, b'{"type":"vad","status":"true"}')
    assert incoming.message is not None
    assert incoming.message.type == "VAD"


def test_a_message_survives_the_round_trip() -> None:
    message = ButtonPress(button_id="main", press_type="long", timestamp=1767225600000)
    assert decode(GLASSES_TO_CLOUD, encode(message)).message == message


def test_the_envelope_is_the_same_json_as_a_whole_dump() -> None:
    event = {"type": "button_press", "buttonId": 'a"b\\c', "n": None, "list": [1, 2.5]}
    sid, stream = 'weird"user@example.com-com.example.app', "transcription:en-US?hints=es%2Cfr"
    spliced = data_stream(sid, stream, encode_object(event), "T")
    assert json.loads(spliced) == {
        "type": "data_stream", "sessionId": sid, "streamType": stream, "data": event, "timestamp": "T",
    }  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
KINDS = sorted({kind for registry in ALL for kind in registry})
MEMBERS = sorted(
    {
        field.alias or name
        for registry in ALL
        for cls in registry.values()
        for name, field in cls.model_fields.items()
    }
)


@pytest.mark.failure("SEC-04")
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=8))
def test_any_members_give_a_message_or_a_protocol_error(kind: str, members: dict[str, Any]) -> None:
    frame = orjson.dumps({**members, "type": kind})
    for registry in ALL:
        try:
            incoming = decode(registry, frame)
        except ProtocolError as error:
            if error.code is not ErrorCode.MALFORMED_MESSAGE or not error.field:
                raise AssertionError(f"no named member: {error}") from error
        else:
            if incoming.message is not None:
                encode(incoming.message)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        decode(CLOUD_TO_APP, data)
    except ProtocolError:
        pass


_LAYOUTS = st.one_of(
    st.fixed_dictionaries({"layoutType": st.just("text_wall"), "text": st.text(max_size=40)}),
    st.fixed_dictionaries(
        {"layoutType": st.just("bitmap_view"), "data": st.text(max_size=10), "extra": st.integers(0, 9)}
    ),
)


@given(
    package=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40),
    view=st.sampled_from(["main", "dashboard"]),
    layout=_LAYOUTS,
    duration=st.none() | st.integers(0, 86_400),
    number=st.integers(1, 10**9),
)
def test_a_spliced_display_is_what_its_model_says(
    package: str,
    view: Literal["main", "dashboard"],
    layout: dict[str, Any],
    duration: int | None,
    number: int,
) -> None:
    made = display_event(package, view, layout, duration, number, b"2026-01-01T00:00:00.000Z")
    model = DisplayEvent(
        package_name=package,
        view=view,
        layout=layout,
        duration_ms=None if duration is None else duration * 1000,
        display_id=str(number),
        timestamp="2026-01-01T00:00:00.000Z",
    )
    assert orjson.loads(made) == orjson.loads(encode(model))
