"""The proto3 codec: known bytes both ways, defaults, packed and unpacked lists, and any bytes at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.firmware import protobuf as pb

POINT = pb.Schema(pb.int32(1, "x"), pb.int32(2, "y"))
SCHEMA = pb.Schema(
    pb.uint(1, "count"),
    pb.string(2, "name"),
    pb.boolean(3, "on"),
    pb.real(4, "scale"),
    pb.message(16, "point", *POINT.fields),
    pb.many(pb.uint(17, "list")),
    pb.many(pb.real(18, "reals")),
    pb.many(pb.message(19, "points", *POINT.fields)),
    pb.many(pb.string(20, "names")),
)


@pytest.mark.parametrize(
    ("values", "hexs"),
    [
        ({}, ""),
        ({"count": 150}, "089601"),
        ({"count": 0, "name": "", "on": False, "scale": 0.0}, ""),
        ({"name": "testing"}, "120774657374696e67"),
        ({"point": {}}, "820100"),
        ({"point": {"x": -1}}, "82010b08ffffffffffffffffff01"),
        ({"list": [3, 270, 86942]}, "8a010603 8e02 9ea705".replace(" ", "")),
        ({"points": [{}, {"y": 1}]}, "9a01009a01021001"),
        ({"scale": 1.0, "on": True}, "1801250000803f"),
    ],
)
def test_known_bytes_both_ways(values: dict[str, Any], hexs: str) -> None:
    assert pb.encode(SCHEMA, values).hex() == hexs
    present = {k: v for k, v in values.items() if v or isinstance(v, dict)}
    assert pb.decode(SCHEMA, bytes.fromhex(hexs)) == present


def test_a_list_may_come_unpacked() -> None:
    assert pb.decode(SCHEMA, bytes.fromhex("880101880102")) == {"list": [1, 2]}


def test_unknown_fields_are_skipped_whatever_their_type() -> None:
    assert pb.decode(
        SCHEMA, bytes.fromhex("f80701" + "f90700000000000000fa" + "fa07020102" + "fd0700000000" + "0805")
    ) == {"count": 5}


def test_the_last_value_counts_even_when_it_is_the_default() -> None:
    assert pb.decode(SCHEMA, bytes.fromhex("08050800")) == {}


@pytest.mark.parametrize(
    "hexs",
    [
        "08",
        "0000",
        "0b",
        "120548",
        "08ffffffffffffffffffff01",
        "1202c328",
        "0a0100",
        "92010300",
        "82010108",
        "10",
        "25000080",
    ],
)
def test_broken_bytes_are_a_decode_error(hexs: str) -> None:
    with pytest.raises(pb.DecodeError):
        pb.decode(SCHEMA, bytes.fromhex(hexs))


def test_a_name_the_schema_lacks_is_our_mistake() -> None:
    with pytest.raises(KeyError):
        pb.encode(SCHEMA, {"cuont": 1})


uint32, sint32 = st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1)
point = st.fixed_dictionaries({}, optional={"x": sint32, "y": sint32})
messages = st.fixed_dictionaries(
    {},
    optional={
        "count": uint32,
        "name": st.text(max_size=20),
        "on": st.booleans(),
        "scale": st.floats(width=32, allow_nan=False),
        "point": point,
        "list": st.lists(uint32, min_size=1, max_size=5),
        "reals": st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
        "points": st.lists(point, min_size=1, max_size=3),
        "names": st.lists(st.text(max_size=5), min_size=1, max_size=3),
    },
)


def without_defaults(values: dict[str, Any]) -> dict[str, Any]:
    cleaned: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            cleaned[key] = without_defaults(value)
        elif key == "points":
            cleaned[key] = [without_defaults(v) for v in value]
        elif value:
            cleaned[key] = value
    return cleaned


@given(messages)
def test_a_message_survives_the_wire(values: dict[str, Any]) -> None:
    assert pb.decode(SCHEMA, pb.encode(SCHEMA, values)) == without_defaults(values)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    try:
        pb.encode(SCHEMA, pb.decode(SCHEMA, data))
    except pb.DecodeError:
        pass
