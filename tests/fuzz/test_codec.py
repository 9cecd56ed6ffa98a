"""wire.codec: any text frame becomes a message, an unknown type, or a ProtocolError that names the fault."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import corpus, examples, json_values, messages
from wire import codec
from wire.errors import ErrorCode, ProtocolError
from wire.messages import ALL, Message
from wire.messages.base import Registry

MODELS = [(registry, model) for registry in ALL for model in registry.values()]


def check(registry: Registry, data: bytes) -> None:
    """Decode or the documented error; the error quotes nothing of the frame; decoding again gives the same."""
    try:
        incoming = codec.decode(registry, data)
    except ProtocolError as caught:
        refused = caught
    else:
        check_decoded(registry, data, incoming)
        return
    assert refused.code in (ErrorCode.MALFORMED_MESSAGE, ErrorCode.TOO_LARGE)
    assert 0 < len(refused.message) < 2000


def check_decoded(registry: Registry, data: bytes, incoming: codec.Incoming) -> None:
    """Every kind of buffer gives the same, and what we understood we can say again."""
    for other in (bytearray(data), memoryview(data)):
        again = codec.decode(registry, other)
        assert (again.type, again.payload, again.message) == (
            incoming.type,
            incoming.payload,
            incoming.message,
        )
    if incoming.message is not None:
        check_round_trip(registry, incoming.message)


def check_round_trip(registry: Registry, message: Message) -> None:
    """What we understood we can say again, and it means the same."""
    encoded = codec.encode(message)
    again = codec.decode(registry, encoded)
    assert again.message == message


@given(st.sampled_from(ALL), st.binary(max_size=300))
@examples(150)
def test_any_bytes(registry: Registry, data: bytes) -> None:
    check(registry, data)


@given(st.sampled_from(ALL), json_values)
@examples(150)
def test_any_json(registry: Registry, value: Any) -> None:
    try:
        data = orjson.dumps(value)
    except TypeError:
        return  # no JSON: integers beyond 64 bits, lone surrogates
    check(registry, data)


@given(st.data())
@examples(500)
def test_any_members_of_every_message(data: st.DataObject) -> None:
    registry, model = data.draw(st.sampled_from(MODELS))
    value = data.draw(messages(model))
    try:
        encoded = orjson.dumps(value)
    except TypeError:
        return
    check(registry, encoded)


@pytest.mark.failure("SEC-12")
@pytest.mark.parametrize("data", corpus("text"))
def test_inputs_that_did_harm_elsewhere(data: bytes) -> None:
    for registry in ALL:
        check(registry, data)


@given(st.text(max_size=60), st.text(max_size=60), json_values)
@examples(150)
def test_envelope_of_an_event_is_json_whatever_the_ids(session_id: str, stream: str, event: Any) -> None:
    try:
        payload = orjson.dumps(event)
        orjson.dumps([session_id, stream])
    except TypeError:
        return
    envelope = orjson.loads(codec.data_stream(session_id, stream, payload, "T"))
    assert envelope["sessionId"] == session_id
    assert envelope["streamType"] == stream
    assert orjson.dumps(envelope["data"]) == orjson.dumps(orjson.loads(payload))
