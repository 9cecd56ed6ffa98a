"""Frames between a session and an app at another node: in order, once, over a bus that loses, delays and forgets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.core.pipe import (
    Content,
    Deliver,
    Lost,
    Missing,
    Piece,
    Pipe,
    PipeEffect,
    PipeLimits,
    Write,
    attachment_of,
    close_payload,
    closing,
)
from wire.messages.base import Delivery


def text(n: int) -> Piece:
    return Piece(Content.TEXT, b"%d" % n)


def delivered(effects: list[PipeEffect]) -> list[bytes]:
    return [e.piece.payload for e in effects if isinstance(e, Deliver)]


def written(effects: list[PipeEffect]) -> list[bytes]:
    return [e.data for e in effects if isinstance(e, Write)]


def test_what_is_sent_arrives_with_all_that_belongs_to_it() -> None:
    here, there = Pipe(7), Pipe(7)
    piece = Piece(Content.TEXT, b"{}", Delivery.LATEST, "key", ("stream:with:colons", 12, 3))
    data = here.send(piece, 0.0).data
    assert attachment_of(data) == 7
    (arrived,) = there.take(data, 0.0)
    assert arrived == Deliver(piece)


def test_a_hole_is_never_stepped_over_but_asked_for() -> None:
    """Bug 3: live frames overtook the replay after a blip, and the replayed ones were taken for doubles."""
    here, there = Pipe(7), Pipe(7)
    frames = [here.send(text(n), 0.0).data for n in range(5)]
    assert delivered(there.take(frames[0], 0.0)) == [b"0"]
    (question,) = written(there.take(frames[3], 0.01))
    assert delivered(there.take(frames[4], 0.02)) == []  # and the question is not repeated at once
    again = written(here.take(question, 0.02))
    assert len(again) == 4
    got = [payload for data in again for payload in delivered(there.take(data, 0.03))]
    assert got == [b"1", b"2", b"3", b"4"]


def test_a_lost_tail_is_found_by_asking() -> None:
    here, there = Pipe(7), Pipe(7)
    here.send(text(0), 0.0)
    assert here.deadline == pytest.approx(0.3)
    (probe,) = written(here.handle_deadline(0.3))
    (question,) = written(there.take(probe, 0.3))
    (again,) = written(here.take(question, 0.3))
    assert delivered(there.take(again, 0.3)) == [b"0"]


def test_a_peer_that_keeps_silent_is_reported_missing_and_not_before_its_time() -> None:
    here = Pipe(7)
    here.send(text(0), 0.0)
    reports = []
    for tick in range(1, 31):
        reports += [tick / 10 for e in here.handle_deadline(tick / 10) if isinstance(e, Missing)]
    assert reports[0] == pytest.approx(1.0)
    assert len(reports) <= 3


def test_sound_leaves_the_ring_when_it_is_too_old_and_the_receiver_is_told() -> None:
    here, there = Pipe(7), Pipe(7)
    for n in range(3):
        here.send(Piece(Content.BINARY, b"sound", Delivery.LOSSY), n * 0.01)
    here.send(text(9), 0.03)
    out = there.take(written(here.resend(0, 5.0))[0], 5.0)
    assert out[0] == Lost(3)
    assert delivered(out) == [b"9"]


def test_a_ring_is_bounded_in_number_and_bytes_and_sound_goes_first() -> None:
    here = Pipe(7, PipeLimits(pieces_max=10, bytes_max=1000))
    here.send(text(0), 0.0)
    for _ in range(50):
        here.send(Piece(Content.BINARY, b"x" * 10, Delivery.LOSSY), 0.0)
    assert here.waiting == 10
    again = written(here.resend(0, 0.0))
    assert again[0].endswith(b"0")  # the reliable one is still there
    for _ in range(50):
        here.send(Piece(Content.TEXT, b"y" * 300), 0.0)
    assert here.waiting <= 4


def test_acknowledgements_ride_on_frames_and_come_alone_when_there_are_none() -> None:
    here, there = Pipe(7), Pipe(7)
    sound = Piece(Content.BINARY, b"s", Delivery.LOSSY)
    there.take(here.send(sound, 0.0).data, 0.0)
    here.take(there.send(sound, 0.01).data, 0.01)
    assert here.waiting == 0
    there.take(here.send(sound, 0.02).data, 0.02)
    (ack,) = written(there.handle_deadline(0.13))
    here.take(ack, 0.13)
    assert here.waiting == 0
    assert here.deadline is None or here.deadline > 0.13


def test_a_reliable_frame_is_acknowledged_at_once() -> None:
    """The glasses keep what they said until the app's node has it."""
    here, there = Pipe(7), Pipe(7)
    (ack,) = written(there.take(here.send(text(0), 0.0).data, 0.0))
    here.take(ack, 0.0)
    assert here.waiting == 0


def test_frames_of_another_pair_of_ends_change_nothing() -> None:
    here, there = Pipe(7), Pipe(8)
    assert there.take(here.send(text(0), 0.0).data, 0.0) == []
    assert there.stale == 1


def test_an_end_that_moves_to_another_peer_takes_along_what_nobody_has() -> None:
    edge, first, second = Pipe(1), Pipe(1), Pipe(2)
    frames = [edge.send(text(n), 0.0).data for n in range(3)]
    edge.take(written(first.take(frames[0], 0.0))[0], 0.1)
    edge.move(2)
    second = Pipe(2, in_from=edge.acknowledged)
    got = [
        p for data in written(edge.resend(edge.acknowledged, 0.2)) for p in delivered(second.take(data, 0.2))
    ]
    assert got == [b"1", b"2"]


def test_what_is_no_frame_is_refused_and_what_is_unknown_is_passed_over() -> None:
    pipe = Pipe(7)
    for rubbish in (b"", b"\x01", b"x" * 10):
        with pytest.raises(ValueError, match="no pipe frame"):
            pipe.take(rubbish, 0.0)
    other = Pipe(7)
    data = bytearray(other.send(text(0), 0.0).data)
    data[21] = 31 << 3 | 2  # contents of a newer version
    assert delivered(pipe.take(bytes(data), 0.0)) == []
    assert pipe.received == 1
    data[0] = 99  # a kind of a newer version
    assert pipe.take(bytes(data), 0.0) == []


def test_a_close_carries_its_code_and_reason() -> None:
    assert closing(close_payload(1012, "Server restarting")) == (1012, "Server restarting")


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_over_any_bus_reliable_frames_arrive_once_in_order(seed: int) -> None:
    rng = random.Random(seed)
    ends = (Pipe(1), Pipe(1))
    flying: list[list[bytes]] = [[], []]  # towards end 0, towards end 1; first in, first out
    sent, got = ([], []), ([], [])  # type: ignore[var-annotated]
    now = 0.0

    def take(end: int, effects: list[PipeEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Write):
                if rng.random() < (0.7 if lossy else 1.0):
                    flying[1 - end].append(effect.data)
            elif isinstance(effect, Deliver) and effect.piece.delivery is Delivery.RELIABLE:
                got[end].append(effect.piece.payload)

    lossy = True
    for step in range(300):
        end = rng.randrange(2)
        if rng.random() < 0.4:
            if rng.random() < 0.3:
                take(end, [ends[end].send(Piece(Content.BINARY, b"s", Delivery.LOSSY), now)])
            else:
                sent[end].append(b"%d" % step)
                take(end, [ends[end].send(text(step), now)])
        elif flying[end] and rng.random() < 0.8:
            take(end, ends[end].take(flying[end].pop(0), now))
        else:
            now += rng.random() * 0.2
            for each in (0, 1):
                take(each, ends[each].handle_deadline(now))
    lossy = False
    for _ in range(2000):
        for end in (0, 1):
            if flying[end]:
                take(end, ends[end].take(flying[end].pop(0), now))
        if not flying[0] and not flying[1]:
            now += 0.1
            for each in (0, 1):
                take(each, ends[each].handle_deadline(now))
    assert got[1] == sent[0]
    assert got[0] == sent[1]
    assert ends[0].waiting == ends[1].waiting == 0


def test_sound_that_nobody_has_confirmed_can_be_given_to_another_node() -> None:
    here, there = Pipe(7), Pipe(7)
    here.send(Piece(Content.BINARY, b"too old", Delivery.LOSSY), 0.0)
    first = here.send(Piece(Content.BINARY, b"heard", Delivery.LOSSY), 2.0)
    there.take(here.send(text(1), 2.1).data, 2.1)
    here.send(Piece(Content.BINARY, b"on its way", Delivery.LOSSY), 2.5)
    assert here.unheard(2.6) == [b"heard", b"on its way"]
    assert first.data.endswith(b"heard")
