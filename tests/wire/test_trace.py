"""A trace keeps what happened and loses what was said (wire/trace.py)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

import orjson

from wire.messages.app_to_cloud import TpaConnectionInit
from wire.messages.glasses_to_cloud import ConnectionInit
from wire.trace import PRIVATE_FIELDS, line, redact


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Shown:
    package_name: str
    text: str
    pcm: bytes
    parts: tuple[dict[str, object], ...] = ()


def test_private_members_keep_only_their_size() -> None:
    effect = Shown("com.example.app", "meet me at nine", b"\x00" * 640, ({"title": "secret", "level": 5},))
    assert redact(effect) == {
        "package_name": "com.example.app",
        "text": "<str 15>",
        "pcm": "<bytes 640>",
        "parts": [{"title": "<str 6>", "level": 5}],
    }


def test_both_spellings_of_a_private_member_are_hidden() -> None:
    wire_names = {"coreToken", "apiKey", "topText", "bottomText", "leftText", "rightText", "text", "lat", "payload",
                  "authToken"}  # fmt: skip
    hidden = redact(dict.fromkeys(wire_names | PRIVATE_FIELDS, "visible"))
    assert "visible" not in hidden.values()


def test_models_are_redacted_like_the_objects_they_are() -> None:
    text = orjson.dumps(
        redact({"message_in": ConnectionInit(core_token="very-secret", user_id="u")})
    ).decode()
    assert "very-secret" not in text
    assert "connection_init" in text
    secret = redact(
        TpaConnectionInit(package_name="p", api_key="key-in-clear", session_id=None, sdk_version=None)
    )
    assert secret["api_key"] == "<str 12>"
    assert secret["package_name"] == "p"


def test_a_line_is_one_json_object_whatever_the_value() -> None:
    for value in (
        Colour.RED,
        PurePosixPath("/x"),
        {1: {2, 3}},
        [b"ab", memoryview(b"abc")],
        None,
        1.5,
        Shown("p", "t", b""),
    ):
        out = line(1.23456789, "session", "in", "received", value)
        assert out.endswith(b"\n")
        assert out.count(b"\n") == 1
        assert orjson.loads(out)["t"] == 1.234568
