"""wire.trace: any value becomes one line of JSON, and no private member of it is readable there."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import examples, json_values
from wire.trace import PRIVATE_FIELDS, line

CANARY = "canary-5f1e"


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), json_values, st.binary(max_size=20))
@examples(200)
def test_any_value_is_one_line(now: float, value: Any, blob: bytes) -> None:
    try:
        orjson.dumps(value)
    except TypeError:
        return
    text = line(now, "m", "in", "n", {"v": value, "b": blob})
    assert text.count(b"\n") == 1
    assert orjson.loads(text)["n"] == "n"


@pytest.mark.failure("SEC-03")
@given(st.sampled_from(sorted(PRIVATE_FIELDS)), json_values, st.integers(0, 3))
@examples(200)
def test_private_members_never_reach_the_line(name: str, value: Any, depth: int) -> None:
    secret: Any = {name: [CANARY, {"deeper": CANARY}, value], "kept": 1}
    for _ in range(depth):
        secret = {"x": [secret]}
    try:
        text = line(0.0, "m", "out", "n", secret)
    except TypeError:
        return  # not JSON to begin with
    assert CANARY.encode() not in text
