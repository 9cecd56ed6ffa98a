"""The fast path and `websockets` must make the same of any bytes, whole, byte by byte and cut anywhere."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from tests.cloud.test_connection import Rig

MAX = 300  # small limits make the interesting cases frequent


def reference(data: bytes) -> tuple[list[tuple[Any, ...]], bytes]:
    """Messages and answers according to `websockets` alone, fragments joined."""
    protocol = ServerProtocol(state=OPEN, max_size=MAX)
    protocol.receive_data(data)
    messages: list[tuple[Any, ...]] = []
    parts, kind = b"", ""
    for event in protocol.events_received():
        assert isinstance(event, WireFrame)
        if event.opcode is Opcode.PONG:
            messages.append(("pong", bytes(event.data)))
        elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if event.opcode is not Opcode.CONT:
                parts, kind = b"", event.opcode.name.lower()
            parts += bytes(event.data)
            if event.fin:
                messages.append((kind, parts))
    return messages, b"".join(protocol.data_to_send())


def ours(data: bytes, cuts: list[int]) -> tuple[list[tuple[Any, ...]], bytes]:
    rig = Rig(text_max=MAX, binary_max=MAX)
    rig.pipe.close = lambda: None  # type: ignore[method-assign] # keep listening, as the reference does
    previous = 0
    for cut in [*sorted(cuts), len(data)]:
        if cut > previous:
            rig.connection.data_received(data[previous:cut])
            previous = cut
        while rig.pipe.reading_paused:
            rig.clock.advance(0.001)
    return rig.sink.got, rig.pipe.taken


@st.composite
def frame_bytes(draw: st.DrawFn) -> bytes:
    """A client frame: mostly sound, sometimes with a flaw in any of its fields."""
    opcode = draw(st.sampled_from([1, 1, 1, 2, 2, 0, 9, 10, 8, 3, 11]))
    first = opcode | (0x80 if draw(st.integers(0, 4)) else 0) | (0x40 if draw(st.integers(0, 19)) == 0 else 0)
    size = draw(st.sampled_from([0, 1, 5, 124, 125, 126, 127, 200, MAX - 1, MAX, MAX + 1]))
    if opcode == 8:
        payload = draw(
            st.sampled_from([b"", b"\x03\xe8", b"\x03\xe8bye", b"\x03", b"\x00\x01", b"\x03\xe8\xff"])
        )
    else:
        payload = bytes(range(256))[: size % 256] * 2
        payload = payload[:size]
    size = len(payload)
    masked = 0x80 if draw(st.integers(0, 29)) else 0
    form = draw(st.integers(0, 9))
    if form == 0:  # not the shortest form: tolerated by websockets
        head = bytes((first, masked | 127)) + size.to_bytes(8)
    elif size < 126 and form != 1:
        head = bytes((first, masked | size))
    else:
        head = bytes((first, masked | 126)) + size.to_bytes(2)
    if not masked:
        return head + payload
    mask = draw(st.binary(min_size=4, max_size=4))
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def agree(data: bytes, cuts: list[int]) -> None:
    got, answers = ours(data, cuts)
    expected, expected_answers = reference(data)
    assert [event for event in got if event[0] != "closed"] == expected
    assert answers == expected_answers


@settings(max_examples=400, deadline=None)
@given(frames=st.lists(frame_bytes(), max_size=6), seed=st.integers(0, 2**32))
def test_any_sequence_of_frames_means_the_same_to_both(frames: list[bytes], seed: int) -> None:
    data = b"".join(frames)
    rng = random.Random(seed)
    agree(data, [])
    agree(data, list(range(1, len(data))))
    agree(data, [rng.randrange(1, len(data)) for _ in range(5)] if len(data) > 1 else [])
    agree(data[: rng.randrange(len(data) + 1)], [])


@settings(max_examples=400, deadline=None)
@given(data=st.binary(max_size=64), seed=st.integers(0, 2**32))
def test_garbage_means_the_same_to_both(data: bytes, seed: int) -> None:
    rng = random.Random(seed)
    agree(data, [])
    agree(data, list(range(1, len(data))))
    agree(data, [rng.randrange(1, len(data)) for _ in range(3)] if len(data) > 1 else [])


@pytest.mark.parametrize("seed", range(3))
def test_mutated_traffic_means_the_same_to_both(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        data = bytearray()
        for _ in range(rng.randrange(1, 5)):
            payload = rng.randbytes(rng.choice([0, 3, 125, 126, 299, 300, 301]))
            opcode = rng.choice([Opcode.TEXT, Opcode.BINARY])
            data += WireFrame(opcode, payload).serialize(mask=True)
        for _ in range(rng.randrange(0, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        agree(bytes(data), sorted(rng.randrange(1, len(data)) for _ in range(4)))
