"""Hostile values: any JSON, valid messages with one thing changed, and the corpus of inputs that once did harm.

Rules: `examples(n)` is the fast profile of `make test`; GLASSBRIDGE_FUZZ multiplies it for a long run.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from wire.messages.base import Message

CORPUS = Path(__file__).parent / "corpus"


def examples(count: int) -> Callable[[Any], Any]:
    """Hypothesis settings: `count` examples, times GLASSBRIDGE_FUZZ (default 1), no time limit per example."""
    factor = int(os.environ.get("GLASSBRIDGE_FUZZ", "1"))
    return settings(
        max_examples=count * factor,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def corpus(name: str) -> list[bytes]:
    """The committed inputs for one decoder."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


#: Values that have broken parsers: types in the wrong place, extremes, look-alikes.
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64 - 1, 1e308, -0.0, 0.1, "", " ", "\x00", "null", "true", "NaN",
    "__proto__", "constructor", "*", "all", "é" * 100, "\U0001f453", "‮", "a" * 5000, [], {}, [[]], [None], {"": None},
    {"type": "x"}, {"__proto__": {}}, ["a", ["b", ["c"]]], {"a": {"b": {"c": {}}}},
]  # fmt: skip

scalars = st.one_of(
    st.sampled_from(HOSTILE),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=8,
)


def members(model: type[Message]) -> list[str]:
    """The wire names of a message's members."""
    return [info.alias or name for name, info in model.model_fields.items()]


@st.composite
def messages(draw: st.DrawFn, model: type[Message]) -> dict[str, Any]:
    """An object that claims to be `model`, with any values in any of its members."""
    names = draw(st.lists(st.sampled_from(members(model)), max_size=8, unique=True))
    value: dict[str, Any] = {name: draw(json_values) for name in names}
    value["type"] = model.wire_name()
    return value


@st.composite
def mutated(draw: Any, valid: Any) -> Any:
    """`valid` with one to three places replaced, removed or added."""
    value: Any = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = value
        while isinstance(place, (dict, list)) and place and draw(st.booleans()):
            key = (
                draw(st.sampled_from(sorted(place)))
                if isinstance(place, dict)
                else draw(st.integers(0, len(place) - 1))
            )
            if not isinstance(place[key], (dict, list)):
                place[key] = draw(json_values)
                break
            place = place[key]
        else:
            if isinstance(place, dict):
                if place and draw(st.booleans()):
                    del place[draw(st.sampled_from(sorted(place)))]
                else:
                    place[draw(st.text(max_size=8))] = draw(json_values)
            elif isinstance(place, list):
                place.append(draw(json_values))
    return value
