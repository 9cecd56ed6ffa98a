"""Writer: order, deadlines, credit of answers, bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.writer import (
    WRITER_TRANSITIONS,
    Broken,
    Done,
    Outcome,
    PutOnAir,
    Writer,
    WriterEffect,
    WriterState,
)
from edge.profiles.base import Command, Lane, Packet, Unsupported
from wire.errors import GlassesFault


def command(
    name: str = "c", packets: int = 1, *, lane: Lane = Lane.CONTROL, tries: int = 1, **more: Any
) -> Command:
    """Each packet carries its name, attempt and index, and waits for an answer named like itself."""
    attempts = iter(range(1, 100))

    def encode(_: int) -> Sequence[Packet]:
        attempt = next(attempts)
        return [
            Packet(f"{name}{attempt}.{i}".encode(), reply=(name, attempt, i), **more) for i in range(packets)
        ]

    return Command(name, encode, lane=lane, tries=tries)


def writer() -> Writer:
    w = Writer()
    w.opened(100, 0.0)
    return w


def sent(effects: list[WriterEffect]) -> list[str]:
    return [e.data.decode() for e in effects if isinstance(e, PutOnAir)]


def done(effects: list[WriterEffect]) -> list[tuple[int, Outcome]]:
    return [(e.ticket, e.outcome) for e in effects if isinstance(e, Done)]


def wid(effects: list[WriterEffect]) -> int:
    (one,) = (e.write_id for e in effects if isinstance(e, PutOnAir))
    return one


def test_a_command_is_done_when_written_and_answered() -> None:
    w = writer()
    out = w.submit(command(), 1, 0.0)
    assert sent(out) == ["c1.0"]
    assert w.state is WriterState.WAITING_ACK
    assert w.written(wid(out), None, 0.01) == []
    assert done(w.replied(("c", 1, 0), True, 0.03)) == [(1, Outcome.OK)]
    assert w.state.value == "idle"
    assert w.deadline is None
    assert w.ack_time == pytest.approx(0.02)


def test_an_answer_before_the_stacks_confirmation_counts() -> None:
    w = writer()
    out = w.submit(command(), 1, 0.0)
    assert w.replied(("c", 1, 0), True, 0.01) == []
    assert done(w.written(wid(out), None, 0.02)) == [(1, Outcome.OK)]


def test_packets_go_one_by_one_each_after_its_answer() -> None:
    w = writer()
    out = w.submit(command(packets=3), 1, 0.0)
    for i in range(3):
        assert sent(out) == [f"c1.{i}"]
        assert w.written(wid(out), None, 0.1) == []
        out = w.replied(("c", 1, i), True, 0.2)
    assert done(out) == [(1, Outcome.OK)]


@pytest.mark.failure("BLE-03")
def test_a_lost_answer_is_retried_and_then_the_queue_moves_on() -> None:
    w = writer()
    out = w.submit(command(tries=3), 1, 0.0)
    w.submit(command("next"), 2, 0.0)
    for attempt in (1, 2, 3):
        assert sent(out) == [f"c{attempt}.0"], "every attempt is encoded afresh"
        w.written(wid(out), None, w.deadline - 6.0 if w.deadline else 0.0)
        assert w.deadline is not None
        out = w.handle_deadline(w.deadline)
    assert done(out) == [(1, Outcome.TIMEOUT)]
    assert sent(out) == ["next1.0"]


@pytest.mark.failure("BLE-03")
def test_a_late_answer_to_an_earlier_attempt_settles_nothing() -> None:
    w = writer()
    out = w.submit(command(tries=2), 1, 0.0)
    w.written(wid(out), None, 0.0)
    out = w.handle_deadline(1.0)
    assert w.replied(("c", 1, 0), True, 1.1) == []
    assert w.stray_replies == 1
    w.written(wid(out), None, 1.1)
    assert done(w.replied(("c", 2, 0), True, 1.2)) == [(1, Outcome.OK)]
    assert w.replied(("c", 2, 0), True, 1.3) == [], "a doubled answer is one answer"


@pytest.mark.failure("BLE-03")
def test_a_write_that_is_never_confirmed_breaks_the_link_not_the_writer() -> None:
    w = writer()
    w.submit(command(), 1, 0.0)
    w.submit(command("b"), 2, 0.0)
    out = w.handle_deadline(6.0)
    assert done(out) == [(1, Outcome.DROPPED), (2, Outcome.DROPPED)]
    assert Broken(GlassesFault.TIMEOUT) in out
    assert w.state is WriterState.FAILED
    assert done(w.submit(command(), 3, 6.1)) == [(3, Outcome.DROPPED)]
    w.opened(100, 7.0)
    assert sent(w.submit(command(), 4, 7.0)) == ["c1.0"]


def test_a_refusal_is_retried_after_a_pause_and_then_final() -> None:
    w = writer()
    out = w.submit(command(tries=2), 1, 0.0)
    w.written(wid(out), None, 0.0)
    assert sent(w.replied(("c", 1, 0), False, 0.1)) == []
    assert w.deadline == pytest.approx(0.3)
    out = w.handle_deadline(0.31)
    assert sent(out) == ["c2.0"]
    w.written(wid(out), None, 0.3)
    assert done(w.replied(("c", 2, 0), False, 0.4)) == [(1, Outcome.REFUSED)]


def test_an_att_error_is_a_refusal_not_a_lost_link() -> None:
    w = writer()
    out = w.submit(command(), 1, 0.0)
    assert done(w.written(wid(out), GlassesFault.REFUSED, 0.1)) == [(1, Outcome.REFUSED)]
    assert w.state is WriterState.IDLE


def test_any_other_write_error_breaks_the_link() -> None:
    w = writer()
    out = w.submit(command(), 1, 0.0)
    assert Broken(GlassesFault.LINK_LOST) in w.written(wid(out), GlassesFault.LINK_LOST, 0.1)


@pytest.mark.failure("BLE-04")
def test_a_heartbeat_overtakes_bulk_between_two_packets() -> None:
    w = writer()
    bulk = Command(
        "bulk", lambda _: [Packet(f"p{i}".encode(), response=False) for i in range(50)], lane=Lane.BULK
    )
    out = w.submit(bulk, 1, 0.0)
    assert sent(w.submit(command("beat", lane=Lane.HEARTBEAT), 2, 0.0)) == []
    out = w.written(wid(out), None, 0.001)
    assert sent(out) == ["beat1.0"]
    out = w.written(wid(out), None, 0.002)
    assert sent(out) == ["p1"], "bulk goes on while the heartbeat waits for its answer"
    assert done(w.replied(("beat", 1, 0), True, 0.003)) == [(2, Outcome.OK)]


def test_a_heartbeat_goes_out_while_another_command_waits_for_its_answer() -> None:
    w = writer()
    w.written(wid(w.submit(command(), 1, 0.0)), None, 0.0)
    assert sent(w.submit(command("beat", lane=Lane.HEARTBEAT), 2, 0.5)) == ["beat1.0"]


@pytest.mark.failure("DSP-01")
def test_a_newer_bulk_replaces_an_unsent_older_one_whole() -> None:
    w = writer()
    w.submit(command("a", lane=Lane.BULK), 1, 0.0)
    assert done(w.submit(command("b", lane=Lane.BULK), 2, 0.0)) == []
    assert done(w.submit(command("c", lane=Lane.BULK), 3, 0.0)) == [(2, Outcome.REPLACED)]


def test_control_goes_before_bulk() -> None:
    w = writer()
    out = w.submit(command("a"), 1, 0.0)
    w.submit(command("bulk", lane=Lane.BULK), 2, 0.0)
    w.submit(command("b"), 3, 0.0)
    w.written(wid(out), None, 0.0)
    assert sent(w.replied(("a", 1, 0), True, 0.1)) == ["b1.0"]


def test_the_queue_is_bounded_and_says_so() -> None:
    w = writer()
    outcomes = [done(w.submit(command(), n, 0.0)) for n in range(70)]
    assert [o for o in outcomes if o] == [[(n, Outcome.DROPPED)] for n in range(65, 70)]


def test_a_gap_is_kept_between_packets() -> None:
    w = writer()
    bulk = Command("bulk", lambda _: [Packet(b"a", gap=0.005), Packet(b"b", gap=0.005)])
    out = w.submit(bulk, 1, 0.0)
    assert sent(w.written(wid(out), None, 0.001)) == []
    assert w.state is WriterState.PACING
    assert w.handle_deadline(0.003) == []
    assert sent(w.handle_deadline(0.006)) == ["b"]


def test_what_the_link_cannot_carry_is_told_and_the_next_goes_on() -> None:
    def encode(_: int) -> Sequence[Packet]:
        raise Unsupported("too small")

    w = writer()
    w.submit(command("a"), 1, 0.0)
    w.submit(Command("x", encode), 2, 0.0)
    w.submit(command("b"), 3, 0.0)
    w.written(1, None, 0.0)
    out = w.replied(("a", 1, 0), True, 0.1)
    assert done(out) == [(1, Outcome.OK), (2, Outcome.UNSUPPORTED)]
    assert sent(out) == ["b1.0"]


def test_a_lost_link_drops_everything_and_a_stale_confirmation_is_ignored() -> None:
    w = writer()
    out = w.submit(command("a"), 1, 0.0)
    w.submit(command("b"), 2, 0.0)
    w.submit(command("h", lane=Lane.HEARTBEAT), 3, 0.0)
    stale = wid(out)
    assert {t for t, o in done(w.closed(0.1)) if o is Outcome.DROPPED} == {1, 2, 3}
    w.opened(50, 1.0)
    assert w.written(stale, None, 1.1) == []
    assert w.payload_max == 50


def test_chunks_follow_the_payload_of_the_link_at_that_moment() -> None:
    seen: list[int] = []

    def encode(size: int) -> Sequence[Packet]:
        seen.append(size)
        return [Packet(b"x")]

    w = writer()
    w.submit(Command("x", encode), 1, 0.0)
    w.opened(20, 1.0)
    w.submit(Command("x", encode), 2, 1.0)
    assert seen == [100, 20]


def test_the_cost_per_minute_rises_with_writes_and_fades_without() -> None:
    w = writer()
    now = 0.0
    for _ in range(300):
        now += 1.0
        w.submit(Command("x", lambda _: [Packet(b"x" * 10)]), 1, now)
        w.written(w._next_write, None, now)
    assert w.packets_rate.at(now) == pytest.approx(60, rel=0.05)
    assert w.bytes_rate.at(now) == pytest.approx(600, rel=0.05)
    assert w.bytes_rate.at(now + 600) < 1


@settings(max_examples=200)
@given(st.data())
def test_random_walk_every_command_ends_once_and_one_write_is_out_at_most(data: st.DataObject) -> None:
    w = writer()
    now, tickets, ended, out_ids, keys = 0.0, 0, [], [], []

    def take(effects: list[WriterEffect]) -> None:
        for effect in effects:
            match effect:
                case PutOnAir(write_id, raw):
                    out_ids.append(write_id)
                    name, rest = raw.decode()[:1], raw.decode()[1:]
                    attempt, _, index = rest.partition(".")
                    keys.append((name, int(attempt), int(index)))
                case Done(ticket):
                    ended.append(ticket)
                case Broken():
                    out_ids.clear()
                    take(w.opened(60, now))

    for _ in range(data.draw(st.integers(5, 60))):
        now += data.draw(st.sampled_from([0.0, 0.01, 0.5, 3.0]))
        match data.draw(st.sampled_from(["submit", "written", "reply", "time", "close", "fault"])):
            case "submit":
                lane = data.draw(st.sampled_from(list(Lane)))
                tickets += 1
                name = {Lane.HEARTBEAT: "h", Lane.CONTROL: "c", Lane.BULK: "b"}[lane]
                take(w.submit(command(name, data.draw(st.integers(1, 3)), lane=lane, tries=2), tickets, now))
            case "written" if out_ids:
                take(w.written(out_ids.pop(0), None, now))
            case "fault" if out_ids:
                take(w.written(out_ids.pop(0), data.draw(st.sampled_from(list(GlassesFault))), now))
            case "reply" if keys:
                take(w.replied(data.draw(st.sampled_from(keys)), data.draw(st.booleans()), now))
            case "time" if w.deadline is not None:
                now = max(now, w.deadline)
                take(w.handle_deadline(now))
            case "close":
                out_ids.clear()
                take(w.closed(now))
                take(w.opened(100, now))
        assert len([p for p in (w._beat, w._current) if p is not None and p.write_id is not None]) <= 1
        assert len(ended) == len(set(ended))
        assert w.state in WRITER_TRANSITIONS
    take(w.closed(now))
    assert sorted(ended) == list(range(1, tickets + 1)), "every command ends, exactly once"


@pytest.mark.failure("BLE-05")
def test_what_the_link_cannot_carry_is_refused_with_what_it_needs_and_never_written() -> None:
    w = writer()
    long = Command("text", lambda _: (Packet(b"a"), Packet(bytes(101))))
    [ended] = w.submit(long, 1, 0.0)
    assert isinstance(ended, Done)
    assert ended.outcome is Outcome.UNSUPPORTED
    assert ended.reason == "text: needs an MTU of 104, this link has 103"
    assert w.state is WriterState.IDLE


# ------------------------------------------------------------------------------------------- pace of the link itself


class SlowLink:
    """A stack that takes unconfirmed packets at once and puts them on the air at `rate` bytes a second, in order."""

    def __init__(self, rate: float, interval: float = 0.015) -> None:
        self.rate, self.interval = rate, interval
        self.free_at = 0.0  # when everything taken so far is out
        self.delays: list[float] = []
        self.confirmed = 0

    def take(self, effect: PutOnAir, now: float) -> float:
        """When the stack reports back."""
        self.delays.append(max(0.0, self.free_at - now))
        self.free_at = max(self.free_at, now) + len(effect.data) / self.rate
        if not effect.response:
            return now + 0.001
        self.confirmed += 1
        return self.free_at + self.interval


def stream(w: Writer, link: SlowLink, count: int) -> float:
    """`count` packets of 200 bytes that ask for no confirmation; when the last one was confirmed."""
    packets = [Packet(bytes(200), response=i == count - 1) for i in range(count)]
    now, effects = 0.0, w.submit(Command("bulk", lambda _: packets, lane=Lane.BULK, tries=1), 1, 0.0)
    for _ in range(10 * count):
        out = [e for e in effects if isinstance(e, PutOnAir)]
        if not out:
            break
        now = link.take(out[0], now)
        effects = w.written(out[0].write_id, None, now)
    assert done(effects) == [(1, Outcome.OK)]
    return now


@pytest.mark.failure("BLE-04")
@pytest.mark.failure("BLE-05")
@pytest.mark.parametrize("rate", [5_000.0, 20_000.0, 48_000.0, 97_000.0])
def test_what_waits_in_the_stack_is_what_the_link_carries_in_a_quarter_second(rate: float) -> None:
    w, link = writer(), SlowLink(rate)
    w.payload_max = 244
    stream(w, link, 400)
    # A heartbeat put in at any moment would wait for no more than that.
    assert max(link.delays) < max(0.25, w.timing.window_min / rate) + 0.1
    assert w.link_rate is not None
    assert 0.5 * rate < w.link_rate < 1.1 * rate, "the rate is measured"


def test_a_fast_link_is_not_held_up_by_confirmations() -> None:
    w, link = writer(), SlowLink(97_000.0)
    w.payload_max = 244
    took = stream(w, link, 400)
    assert took < 1.15 * 400 * 200 / 97_000.0
    assert link.confirmed < 15


def test_a_new_link_is_measured_anew() -> None:
    w = writer()
    w.payload_max = 244
    stream(w, SlowLink(97_000.0), 400)
    assert w.window > w.timing.window_min
    w.opened(244, 100.0)
    assert (w.window, w.link_rate) == (w.timing.window_min, None)


def test_short_commands_are_confirmed_or_not_as_their_driver_says() -> None:
    w = writer()
    effects = w.submit(Command("two", lambda _: [Packet(b"a", response=False), Packet(b"b")]), 1, 0.0)
    assert [e.response for e in effects if isinstance(e, PutOnAir)] == [False]
    effects = w.written(wid(effects), None, 0.001)
    assert [e.response for e in effects if isinstance(e, PutOnAir)] == [True]
    assert w.link_rate is None, "two bytes measure nothing"
