"""The short way of the opening handshake against `websockets`: where it says yes, both say the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

from cloud.handshake import Handshake, ordinary

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
PLAIN = (
    ("Host", "192.0.2.1:8002"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", KEY),
    ("Sec-WebSocket-Version", "13"),
)


def head(*headers: tuple[str, str], line: str = "GET /app-ws?a=b HTTP/1.1") -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


def judged(data: bytes) -> tuple[Request, bytes] | None:
    """What `websockets` says: the request and its answer, or None if it does not open a WebSocket."""
    protocol = ServerProtocol()
    protocol.receive_data(data)
    events = protocol.events_received()
    if not events or not isinstance(events[0], Request):
        return None
    response = protocol.accept(events[0])
    protocol.send_response(response)
    return (events[0], b"".join(protocol.data_to_send())) if response.status_code == 101 else None


def without_date(answer: bytes) -> bytes:
    return b"\r\n".join(line for line in answer.split(b"\r\n") if not line.startswith(b"Date:"))


def agree(data: bytes) -> Handshake | None:
    found = ordinary(data)
    if found is not None:
        reference = judged(data)
        assert reference is not None
        request, answer = reference
        assert found.target == request.path
        assert found.headers == {name.lower(): value for name, value in request.headers.raw_items()}
        assert without_date(found.answer(b"x")) == without_date(answer)
        names = [line.split(b":")[0] for line in answer.split(b"\r\n")]
        assert [line.split(b":")[0] for line in found.answer(b"x").split(b"\r\n")] == names
    return found


@pytest.mark.parametrize(
    "more",
    [
        (),
        (("Origin", "http://192.0.2.1"), ("User-Agent", "okhttp/4.9.2")),
        (("Authorization", "Bearer abc.def.ghi"),),
        (("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),),
        (("X-Forwarded-For", "198.51.100.1, 192.0.2.7"),),
    ],
)
def test_what_clients_send_takes_the_short_way(more: tuple[tuple[str, str], ...]) -> None:
    assert agree(head(*PLAIN, *more)) is not None
    assert agree(head(*(("Connection", "keep-alive, Upgrade") if h[0] == "Connection" else h for h in PLAIN)))


@pytest.mark.parametrize(
    "data",
    [
        head(*PLAIN, ("Host", "192.0.2.2")),
        head(*PLAIN, ("Sec-WebSocket-Protocol", "a, b")),
        head(*PLAIN, ("Content-Length", "4")),
        head(*PLAIN, ("Transfer-Encoding", "chunked")),
        head(*PLAIN, ("X", "ü")),
        head(*PLAIN, (" folded", "x")),
        head(*PLAIN, *((f"X-{n}", "") for n in range(100))),
        head(*PLAIN, ("X", "x" * 9000)),
        head(*PLAIN, line="POST / HTTP/1.1"),
        head(*PLAIN, line="GET / HTTP/1.0"),
        head(*PLAIN, line="GET /a b HTTP/1.1"),
        *(head(*(h for h in PLAIN if h[0] != gone)) for gone, _ in PLAIN[1:]),
        head(*PLAIN[:4], ("Sec-WebSocket-Version", "8")),
        head(*PLAIN[:3], ("Sec-WebSocket-Key", KEY[:-4]), PLAIN[4]),
        head(*PLAIN[:3], ("Sec-WebSocket-Key", KEY[:-3] + "R=="), PLAIN[4]),
        head(*PLAIN[:2], ("Connection", "close"), *PLAIN[3:]),
        head(*PLAIN).replace(b"\r\n", b"\n"),
        head(*PLAIN) + b"x",
        b"",
    ],
)
def test_everything_else_is_for_websockets_to_judge(data: bytes) -> None:
    assert ordinary(data) is None


def test_a_client_that_asks_for_what_is_offered_is_negotiated_with() -> None:
    data = head(*PLAIN, ("Sec-WebSocket-Extensions", "permessage-deflate"))
    assert ordinary(data, extensions=True) is None
    assert ordinary(head(*PLAIN), extensions=True) is not None


_NOISE = st.sampled_from(
    [
        b"\r\n",
        b"\r",
        b"\n",
        b":",
        b" ",
        b"\t",
        b"\0",
        b"\x80",
        b",",
        b"Upgrade",
        b"=",
        b"\r\n\r\n",
        b"GET ",
        b"x",
    ]
)


@given(st.integers(0, 400), st.integers(0, 12), _NOISE, st.permutations(PLAIN))
def test_a_damaged_head_is_accepted_only_if_websockets_accepts_it(
    at: int, cut: int, noise: bytes, headers: list[tuple[str, str]]
) -> None:
    data = head(*headers)
    agree(data[:at] + noise + data[at + cut :])
