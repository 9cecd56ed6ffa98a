"""Where a connection belongs, read from the head of its request: hints only, never wrong enough to fail."""

from __future__ import annotations

from collections import Counter

import jwt
import pytest

from cloud.cluster.placement import best_of, key_of_request
from wire.placement import session_key

ANNA = session_key("anna@home.example")
TOKEN = jwt.encode({"email": "Anna@home.example"}, "x" * 32)


def head(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: h", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("request_head", "key"),
    [
        (head("/glasses-ws?s=abc"), "abc"),
        (head(f"/s/{ANNA}/app-ws"), ANNA),
        (head(f"/s/{ANNA}/app-ws?s=other"), ANNA),
        (head(f"/glasses-ws?token={TOKEN}"), ANNA),
        (head("/glasses-ws", f"Authorization: Bearer {TOKEN}"), ANNA),
        (head("/app-ws", "X-User-Id: anna@home.example"), ANNA),
        (head("/app-ws"), None),
        (head("/app-ws?s="), None),
        (head("/app-ws?s=" + "x" * 100), None),
        (head("/glasses-ws?token=a.b.c"), None),
        (head("/glasses-ws", "Authorization: Basic eDp5"), None),
        (head("/glasses-ws?" + "&".join("a=1" for _ in range(200))), None),
        (head("http://[/glasses-ws?s=abc"), None),
        (b"nonsense\r\n\r\n", None),
        (b"\xff\xfe \x00 \x01\r\n:\r\n\r\n", None),
    ],
)
def test_a_request_names_its_session_or_nothing(request_head: bytes, key: str | None) -> None:
    assert key_of_request(request_head) == key


def test_sessions_spread_evenly_and_only_those_of_a_dead_worker_move() -> None:
    keys = [session_key(f"user{n}@x") for n in range(3000)]
    before = {key: best_of(key, [0, 1, 2]) for key in keys}
    assert all(800 < count < 1200 for count in Counter(before.values()).values())
    after = {key: best_of(key, [0, 2]) for key in keys}
    assert all(after[key] == before[key] for key in keys if before[key] != 1)
    moved = Counter(after[key] for key in keys if before[key] == 1)
    assert all(count > 350 for count in moved.values())
