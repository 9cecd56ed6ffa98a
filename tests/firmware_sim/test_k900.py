"""K900 packets: frames in any byte order and any cut, chunks in any order, fragments, file packets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.firmware import k900
from firmware_sim.firmware.k900 import Chunks, FilePacket, Frame, FrameReader


@pytest.mark.parametrize("order", ["big", "little"])
def test_a_frame_is_found_whichever_order_its_length_has(order: k900.ByteOrder) -> None:
    assert FrameReader().feed(k900.frame(b'{"C":"x"}', order)) == [Frame(0x30, b'{"C":"x"}')]


def test_dollar_signs_inside_the_payload_do_not_end_it() -> None:
    payload = b'{"C":"costs $$5$$","B":{}}'
    assert FrameReader().feed(k900.frame(payload, "little")) == [Frame(0x30, payload)]


def test_garbage_before_a_frame_is_skipped_and_counted() -> None:
    reader = FrameReader()
    assert reader.feed(b"\x00#x##\xff\xff\xff" + k900.frame(b"{}", "big")) == [Frame(0x30, b"{}")]
    assert reader.skipped == 8


def test_two_frames_in_one_packet_are_both_found() -> None:
    both = k900.frame(b"{}", "big") + k900.frame(b"[1]", "little")
    assert [f.payload for f in FrameReader().feed(both)] == [b"{}", b"[1]"]


def test_a_frame_that_never_ends_holds_a_bounded_buffer() -> None:
    reader = FrameReader()
    for _ in range(1000):
        assert reader.feed(b"##0\x00\x02" + b"x" * 50) == []
        assert len(reader._buffer) <= k900.PAYLOAD_MAX + k900.FRAME_OVERHEAD


frames = st.lists(
    st.tuples(
        st.sampled_from(["big", "little"]),
        st.dictionaries(st.text(max_size=8), st.text(max_size=30), max_size=4),
    ),
    max_size=4,
)


@given(frames, st.binary(max_size=40).filter(lambda b: b"#" not in b), st.data())
def test_the_cut_of_the_stream_does_not_change_what_is_read(
    wanted: list[tuple[k900.ByteOrder, dict[str, str]]], noise: bytes, data: st.DataObject
) -> None:
    payloads = [k900.json_bytes(value) for _, value in wanted]
    stream = noise + b"".join(k900.frame(p, order) for p, (order, _) in zip(payloads, wanted, strict=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = FrameReader()
    found = [f.payload for a, b in pairwise([0, *cuts, len(stream)]) for f in reader.feed(stream[a:b])]
    assert found == payloads


@given(st.binary(max_size=700))
def test_any_bytes_are_read_without_an_exception_and_the_same_byte_by_byte(data: bytes) -> None:
    whole, single = FrameReader(), FrameReader()
    at_once = whole.feed(data)
    assert at_once == [f for byte in data for f in single.feed(bytes([byte]))]
    for frame in at_once:
        k900.unwrap(frame.payload)
        k900.read_fragment(frame.payload)
    k900.read_file_packet(data)


def test_android_and_chip_messages_are_told_apart() -> None:
    assert k900.unwrap(b'{"C":"cs_batv","V":1,"B":""}') == k900.Command("cs_batv", "")
    assert k900.unwrap(b'{"C":"{\\"type\\":\\"a\\\\/b\\"}","W":1}') == k900.Message({"type": "a/b"}, True)
    for junk in (b"", b"[]", b'{"C":5}', b"{", b"\xff\xfe", b"[" * 500):
        assert k900.unwrap(junk) is None


@given(st.text(max_size=300), st.integers(4, 80))
def test_pieces_join_to_the_text_and_none_is_too_long(text: str, size: int) -> None:
    parts = k900.pieces(text, size)
    assert "".join(parts) == text
    assert all(len(p.encode("utf-8", "replace")) <= size for p in parts)


def chunk(index: int, total: int, data: str, key: str = "k", **more: object) -> dict[str, object]:
    return {"t": "ck", "id": key, "c": index, "n": total, "d": data, **more}


def test_chunks_join_out_of_order_with_one_of_them_twice() -> None:
    chunks = Chunks()
    assert chunks.add(chunk(2, 3, "C", mId=9), 0.0) is None
    assert chunks.add(chunk(0, 3, "A"), 0.0) is None
    assert chunks.add(chunk(0, 3, "A"), 0.0) is None
    assert chunks.add(chunk(1, 3, "B"), 0.0) == ("ABC", 9)
    assert len(chunks) == 0


def test_the_earlier_verbose_chunks_join_too() -> None:
    chunks = Chunks()
    piece = {"type": "chunked_msg", "chunkId": 7, "chunk": 0, "total": 1, "data": "{}"}
    assert chunks.add(piece, 0.0) == ("{}", None)


def test_a_chunk_after_thirty_seconds_finds_nothing_to_join() -> None:
    chunks = Chunks()
    chunks.add(chunk(0, 2, "A"), 0.0)
    assert chunks.add(chunk(1, 2, "B"), k900.CHUNK_TIMEOUT) is None
    assert chunks.add(chunk(0, 2, "A"), k900.CHUNK_TIMEOUT) == ("AB", None)


def test_no_more_than_ten_messages_are_collected_at_once() -> None:
    chunks = Chunks()
    for number in range(50):
        chunks.add(chunk(0, 2, "A", key=str(number)), 0.0)
    assert len(chunks) == k900.CHUNK_SESSIONS_MAX
    assert chunks.add(chunk(1, 2, "B", key="49"), 0.0) == ("AB", None)


@pytest.mark.parametrize(
    "bad",
    [
        chunk(0, 0, "x"),
        chunk(2, 2, "x"),
        chunk(-1, 2, "x"),
        chunk(0, 256, "x"),
        {"t": "ck"},
        chunk(True, 2, "x"),
        {"t": "ck", "id": 1, "c": "0", "n": 1, "d": "x"},
    ],
)
def test_an_impossible_chunk_is_refused(bad: dict[str, object]) -> None:
    chunks = Chunks()
    assert chunks.add(bad, 0.0) is None
    assert len(chunks) == 0


@given(st.binary(max_size=2000), st.integers(1, 480))
def test_fragments_survive_the_air(payload: bytes, size: int) -> None:
    cut = k900.fragments(70_000, payload, size)
    if len(payload) <= 255 * size:
        assert b"".join(f.payload for f in cut) == payload
    for fragment in cut:
        (frame,) = FrameReader().feed(fragment.frame())
        assert k900.read_fragment(frame.payload) == fragment


@given(st.binary(max_size=800), st.integers(0, 0xFFFF), st.integers(0, 3))
def test_file_packets_survive_the_air_and_a_flipped_bit_does_not(data: bytes, index: int, flags: int) -> None:
    packet = FilePacket(k900.PHOTO, index, 12345, "I123456.jpg", flags, data)
    raw = packet.pack()
    assert len(raw) == len(data) + k900.FILE_OVERHEAD
    assert k900.read_file_packet(raw) == packet
    assert k900.read_file_packet(raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:]) is None
    assert k900.read_file_packet(raw[:-1]) is None
