"""Who serves a session: the table of `Ownership`, its rules one by one, and nodes that race at random."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.core.ownership import (
    Announce,
    AskHandoff,
    Effect,
    Forget,
    GiveState,
    Listen,
    Loaded,
    OwnerRecord,
    Ownership,
    OwnershipState,
    ReadOwner,
    ReadState,
    RefuseHandoff,
    SaveState,
    Stop,
    WriteOwner,
)
from wire.errors import InvalidTransition

S = OwnershipState


def record(node: str, epoch: int) -> bytes:
    return OwnerRecord(node, epoch).encode()


def only(effects: list[Effect], kind: type) -> Any:
    found = [e for e in effects if isinstance(e, kind)]
    assert len(found) == 1, effects
    return found[0]


def kinds(effects: list[Effect]) -> list[str]:
    return [type(e).__name__ for e in effects]


def owned(node: str = "a", epoch: int = 100, rev: int = 1) -> Ownership:
    """A fresh session of this node, loaded and listening."""
    machine = Ownership(node)
    read = only(machine.claim(epoch, 0.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, None, 0, 0.0), WriteOwner)
    effects = machine.owner_written(write.attempt, rev, 0.0)
    assert kinds(effects) == ["Loaded", "Listen"]
    assert kinds(machine.listening(0.0)) == ["Announce"]
    return machine


def test_a_session_nobody_owned_is_claimed_loaded_and_then_listened_for() -> None:
    machine = owned()
    assert machine.state is S.OWNED
    assert machine.is_serving


def test_the_former_owner_is_asked_for_everything_before_anybody_is_listened_to() -> None:
    machine = Ownership("b")
    read = only(machine.claim(200, 0.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, record("a", 100), 7, 0.0), WriteOwner)
    assert write.rev == 7
    ask = only(machine.owner_written(write.attempt, 8, 0.0), AskHandoff)
    assert ask.node == "a"
    assert not machine.is_serving
    effects = machine.handoff_answered(ask.attempt, b"everything", 0.1)
    assert effects == [Loaded(b"everything", "handoff"), Listen()]


def test_a_former_owner_that_does_not_answer_costs_its_time_and_then_the_record_counts() -> None:
    machine = Ownership("b")
    read = only(machine.claim(200, 0.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, record("a", 100), 7, 0.0), WriteOwner)
    ask = only(machine.owner_written(write.attempt, 8, 0.0), AskHandoff)
    assert machine.deadline == machine.timing.handoff
    read_state = only(machine.handle_deadline(0.4), ReadState)
    assert machine.handoff_answered(ask.attempt, b"too late", 0.41) == []
    assert machine.state_read(read_state.attempt, b"a second old", 0.5) == [
        Loaded(b"a second old", "record"),
        Listen(),
    ]


def test_an_engine_that_does_not_answer_in_time_makes_the_owner_provisional_not_absent() -> None:
    machine = Ownership("b")
    read = only(machine.claim(200, 0.0), ReadOwner)
    ask = only(machine.handle_deadline(0.3), AskHandoff)
    assert machine.state is S.PROVISIONAL
    assert ask.node is None
    state = only(machine.handoff_answered(ask.attempt, None, 0.3), ReadState)
    assert machine.state_read(state.attempt, None, 0.6) == [Loaded(None, "none"), Listen()]
    assert kinds(machine.listening(0.6)) == ["Announce"]
    assert machine.is_serving
    # the engine is back: confirmed, and said again
    machine.unavailable(read.attempt, 2.0)
    read = only(machine.handle_deadline(3.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, record("a", 100), 7, 3.0), WriteOwner)
    assert kinds(machine.owner_written(write.attempt, 8, 3.0)) == ["Announce"]
    assert machine.state.value == "owned"


def test_nothing_is_saved_before_the_former_state_is_loaded() -> None:
    """Bug 1: an empty state was written over the old one while the handoff was awaited."""
    machine = Ownership("b")
    read = only(machine.claim(200, 0.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, record("a", 100), 7, 0.0), WriteOwner)
    ask = only(machine.owner_written(write.attempt, 8, 0.0), AskHandoff)
    machine.dirty(0.01)
    for tick in range(1, 39):
        assert not any(isinstance(e, SaveState) for e in machine.handle_deadline(tick / 100))
    machine.handoff_answered(ask.attempt, b"everything", 0.39)
    assert kinds(machine.handle_deadline(0.39)) == ["SaveState"]


def test_a_write_of_unknown_outcome_is_read_again_and_counts_if_it_was_done() -> None:
    machine = Ownership("b")
    read = only(machine.claim(200, 0.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, None, 0, 0.0), WriteOwner)
    assert machine.unavailable(write.attempt, 0.2) == []
    again = only(machine.handle_deadline(0.7), ReadOwner)
    effects = machine.owner_read(again.attempt, write.value, 9, 0.8)
    assert machine.state is S.OWNED
    assert "Stop" not in kinds(effects)


def test_a_lower_epoch_never_overwrites_a_higher_one() -> None:
    """Bug 6: two provisional owners confirmed in arbitrary order."""
    machine = Ownership("b")
    read = only(machine.claim(200, 0.0), ReadOwner)
    machine.handle_deadline(0.3)
    effects = machine.owner_read(read.attempt, record("c", 300), 7, 1.0)
    assert kinds(effects) == ["Stop"]
    assert machine.state is S.SUPERSEDED


def test_of_two_provisional_owners_the_one_with_the_higher_epoch_confirms_whoever_comes_first() -> None:
    low, high = Ownership("a"), Ownership("b")
    for machine, epoch in ((low, 100), (high, 200)):
        machine.claim(epoch, 0.0)
        machine.handle_deadline(0.3)
    write = only(low.owner_read(1, None, 0, 1.0), WriteOwner)
    low.owner_written(write.attempt, 1, 1.0)
    assert low.state is S.OWNED
    write = only(high.owner_read(1, write.value, 1, 1.1), WriteOwner)
    high.owner_written(write.attempt, 2, 1.1)
    assert high.state is S.OWNED
    assert kinds(low.heard(high.claim_record, 1.2)) == ["Stop"]


def test_glasses_that_name_a_newer_owner_than_the_record_take_the_session_and_older_ones_do_not() -> None:
    newer = Ownership("b")
    read = only(newer.claim(1, 0.0, token=150), ReadOwner)
    assert newer.epoch == 151
    assert kinds(newer.owner_read(read.attempt, record("a", 150), 7, 0.0)) == ["WriteOwner"]
    older = Ownership("c")
    read = only(older.claim(1, 0.0, token=150), ReadOwner)
    assert kinds(older.owner_read(read.attempt, record("b", 152), 8, 0.0)) == ["Stop"]


def test_glasses_without_a_token_are_newer_than_what_the_record_says_whatever_the_clock() -> None:
    machine = Ownership("b")
    read = only(machine.claim(100, 0.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, record("a", 5000), 7, 0.0), WriteOwner)
    assert OwnerRecord.decode(write.value) == OwnerRecord("b", 5001)


def test_who_loses_a_race_for_the_record_looks_who_won_and_gives_way_to_a_higher_epoch() -> None:
    machine = Ownership("b")
    read = only(machine.claim(100, 0.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, None, 0, 0.0), WriteOwner)
    again = only(machine.conflict(write.attempt, 0.0), ReadOwner)
    assert kinds(machine.owner_read(again.attempt, record("a", 101), 1, 0.0)) == ["Stop"]


def test_a_superseded_owner_hears_it_and_stops_whatever_it_was_doing() -> None:
    machine = owned(epoch=100)
    assert machine.heard(OwnerRecord("b", 99), 1.0) == [Announce(100)]  # a stale one is told
    assert machine.heard(OwnerRecord("b", 99), 1.5) == []  # not with every word
    assert machine.heard(OwnerRecord("b", 101), 1.6) == [Stop("the session has a newer owner", False)]
    machine.dirty(2.0)
    assert machine.deadline is None
    assert machine.handle_deadline(10.0) == []


def test_a_fenced_save_is_looked_into_and_ends_a_superseded_owner() -> None:
    machine = owned(rev=5)
    machine.dirty(0.0)
    save = only(machine.handle_deadline(0.0), SaveState)
    assert save.rev == 5
    read = only(machine.fenced(save.attempt, 0.1), ReadOwner)
    assert kinds(machine.owner_read(read.attempt, record("b", 200), 6, 0.1)) == ["Stop"]


def test_a_fence_that_our_own_write_had_moved_does_not_end_us() -> None:
    machine = owned(rev=5)
    machine.dirty(0.0)
    save = only(machine.handle_deadline(0.0), SaveState)
    read = only(machine.fenced(save.attempt, 0.1), ReadOwner)
    assert machine.owner_read(read.attempt, machine.claim_record.encode(), 6, 0.1) == []
    assert only(machine.handle_deadline(0.2), SaveState).rev == 6


def test_saves_are_a_second_apart_one_at_a_time_and_only_when_something_changed() -> None:
    machine = owned()
    assert machine.deadline == machine.timing.refresh
    machine.dirty(1.0)
    save = only(machine.handle_deadline(1.0), SaveState)
    machine.dirty(1.1)
    assert machine.handle_deadline(5.0) == []  # one is in flight
    machine.saved(save.attempt, 5.0)
    assert machine.handle_deadline(5.9) == []
    second = only(machine.handle_deadline(6.0), SaveState)
    machine.saved(second.attempt, 6.1)
    assert machine.deadline == machine.timing.refresh


def test_an_engine_that_is_away_is_asked_again_with_growing_pauses() -> None:
    machine = owned()
    machine.dirty(0.0)
    pauses, now = [], 0.0
    for _ in range(6):
        save = only(machine.handle_deadline(now), SaveState)
        machine.unavailable(save.attempt, now)
        assert machine.deadline is not None
        pauses.append(machine.deadline - now)
        now = machine.deadline
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_session_that_nobody_reclaims_for_two_months_keeps_its_record_and_its_state_young() -> None:
    """The engine reaps what was not written for 30 days, and a reaped record would fence its owner."""
    month, day = 30 * 86_400.0, 86_400.0
    machine, now = owned(rev=1), 0.0
    rev, written_at, saved_at, writes = 1, 0.0, 0.0, 0
    machine.dirty(now)
    while now < 2 * month:
        assert machine.deadline is not None
        now = machine.deadline
        assert now - written_at < month
        assert now - saved_at < month
        for effect in machine.handle_deadline(now):
            match effect:
                case WriteOwner(attempt, value, over):
                    assert (value, over) == (record("a", 100), rev)
                    rev, written_at, writes = rev + 1, now, writes + 1
                    assert machine.owner_written(attempt, rev, now) == []
                case SaveState(attempt, fence):
                    assert fence == rev
                    saved_at = now
                    assert machine.saved(attempt, now) == []
    assert writes == 60
    assert now - saved_at <= 1.0 + day


def test_a_refresh_that_the_engine_does_not_take_is_looked_into_and_repeated_within_the_hour() -> None:
    machine = owned(rev=1)
    at = machine.timing.refresh
    write = only(machine.handle_deadline(at), WriteOwner)
    machine.unavailable(write.attempt, at + 2.0)
    read = only(machine.handle_deadline(at + 3.0), ReadOwner)
    assert machine.owner_read(read.attempt, record("a", 100), 1, at + 3.0) == []  # it was not done
    assert only(machine.handle_deadline(at + 4.0), SaveState).rev == 1
    write = only(machine.handle_deadline(at + machine.timing.refresh_again), WriteOwner)
    assert write.rev == 1


def test_a_refresh_over_somebody_elses_claim_ends_the_superseded_owner_and_changes_nothing() -> None:
    machine = owned(rev=1)
    write = only(machine.handle_deadline(machine.timing.refresh), WriteOwner)
    read = only(machine.conflict(write.attempt, 90_000.0), ReadOwner)
    assert kinds(machine.owner_read(read.attempt, record("b", 101), 2, 90_000.0)) == ["Stop"]
    assert machine.deadline is None


def test_a_handoff_is_given_to_a_newer_claim_only_and_ends_the_giver() -> None:
    machine = owned(epoch=100)
    assert machine.handoff_asked("1", OwnerRecord("b", 50), 1.0) == [RefuseHandoff("1", 100)]
    assert machine.handoff_asked("2", OwnerRecord("b", 101), 1.0) == [
        GiveState("2"),
        Stop("handed over", True),
    ]
    assert machine.handoff_asked("3", OwnerRecord("c", 102), 1.1) == [RefuseHandoff("3", 100)]


def test_a_node_that_is_still_loading_passes_on_what_it_gets() -> None:
    """The glasses go from a to b to c faster than a can hand over."""
    machine = Ownership("b")
    read = only(machine.claim(200, 0.0), ReadOwner)
    write = only(machine.owner_read(read.attempt, record("a", 100), 7, 0.0), WriteOwner)
    ask = only(machine.owner_written(write.attempt, 8, 0.0), AskHandoff)
    assert machine.handoff_asked("1", OwnerRecord("c", 300), 0.05) == []
    effects = machine.handoff_answered(ask.attempt, b"everything", 0.1)
    assert kinds(effects) == ["Loaded", "Listen", "GiveState", "Stop"]


def test_glasses_that_return_make_the_owner_look_whether_it_still_is_one() -> None:
    machine = owned(epoch=100, rev=1)
    read = only(machine.verify(1.0), ReadOwner)
    assert machine.owner_read(read.attempt, machine.claim_record.encode(), 1, 1.0) == []
    read = only(machine.verify(2.0), ReadOwner)
    assert kinds(machine.owner_read(read.attempt, record("b", 101), 2, 2.0)) == ["Stop"]


def test_the_end_of_a_session_deletes_what_is_ours_and_nothing_else() -> None:
    machine = owned(rev=3)
    assert machine.end(1.0) == [Forget(3)]
    assert machine.end(1.0) == []
    provisional = Ownership("b")
    provisional.claim(1, 0.0)
    provisional.handle_deadline(0.3)
    assert provisional.end(1.0) == []


def test_a_record_of_another_version_is_read_tolerantly_and_rubbish_is_none() -> None:
    assert OwnerRecord.decode(b'{"v":9,"node":"x","epoch":5,"more":[1]}') == OwnerRecord("x", 5)
    for rubbish in (
        b"",
        b"[]",
        b'{"node":"x"}',
        b"\\xff",
        b'{"node":"x","epoch":"soon"}',
        b'{"node":"x","epoch":-1}',
        b'{"node":"x","epoch":"18446744073709551616"}',
    ):
        assert OwnerRecord.decode(rubbish) is None


def test_an_unlisted_transition_is_refused_and_changes_nothing() -> None:
    machine = Ownership("a")
    with pytest.raises(InvalidTransition):
        machine._move(S.OWNED)
    assert machine.state is S.IDLE


# ---------------------------------------------------------------------------------------------------- at random


@dataclass
class _Engine:
    """One record with its revision, as linearizable as the real one, and as often away."""

    value: bytes | None = None
    rev: int = 0
    counter: int = 0
    saved_by: list[tuple[int, str]] = field(default_factory=list)

    def write(self, value: bytes | None, rev: int) -> int | None:
        if rev != self.rev:
            return None
        self.counter += 1
        self.value, self.rev = value, self.counter if value is not None else 0
        return self.counter


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_however_nodes_race_at_most_one_newest_owner_remains_and_nobody_stale_saves(seed: int) -> None:
    rng = random.Random(seed)
    engine = _Engine()
    machines: list[Ownership] = []
    pending: list[tuple[Ownership, Effect]] = []
    epochs: dict[str, int] = {}

    def take(machine: Ownership, effects: list[Effect]) -> None:
        for effect in effects:
            pending.append((machine, effect))

    def perform(machine: Ownership, effect: Effect, now: float) -> None:
        away = rng.random() < 0.15
        match effect:
            case ReadOwner(attempt):
                if away:
                    take(machine, machine.unavailable(attempt, now))
                else:
                    take(machine, machine.owner_read(attempt, engine.value, engine.rev, now))
            case WriteOwner(attempt, value, rev):
                done = engine.write(value, rev) if rng.random() < 0.9 or not away else None
                if away:  # whether done or not, nobody says
                    take(machine, machine.unavailable(attempt, now))
                elif done is None:
                    take(machine, machine.conflict(attempt, now))
                else:
                    found = OwnerRecord.decode(value)
                    assert found is not None
                    take(machine, machine.owner_written(attempt, done, now))
            case AskHandoff(attempt, node, _):
                other = next((m for m in machines if m.node == node), None)
                if other is None or away:
                    take(machine, machine.handoff_answered(attempt, None, now))
                else:
                    given_up = other.handoff_asked(f"{machine.node}/{attempt}", machine.claim_record, now)
                    take(other, given_up)
                    if not any(isinstance(e, GiveState) for e in given_up):
                        take(machine, machine.handoff_answered(attempt, None, now))
            case GiveState(to):
                name, attempt_text = to.split("/")
                asker = next(m for m in machines if m.node == name)
                take(asker, asker.handoff_answered(int(attempt_text), b"state", now))
            case ReadState(attempt):
                take(machine, machine.state_read(attempt, None if away else b"state", now))
            case Listen():
                take(machine, machine.listening(now))
            case Announce(epoch):
                for other in machines:
                    if other is not machine and rng.random() < 0.8:
                        take(other, other.heard(OwnerRecord(machine.node, epoch), now))
            case SaveState(attempt, rev):
                if away:
                    take(machine, machine.unavailable(attempt, now))
                elif rev != engine.rev:
                    take(machine, machine.fenced(attempt, now))
                else:
                    holder = OwnerRecord.decode(engine.value or b"")
                    assert holder is not None
                    assert holder.node == machine.node, "a superseded node has written"
                    take(machine, machine.saved(attempt, now))
            case _:
                pass

    now = 0.0
    for step in range(rng.randint(2, 5)):
        machine = Ownership(f"node{step}")
        machines.append(machine)
        take(machine, machine.claim(1000 + rng.randint(-50, 50), now))
        epochs[machine.node] = machine.epoch
        for _ in range(rng.randint(0, 40)):
            if pending and rng.random() < 0.8:
                index = rng.randrange(len(pending))
                perform(*pending.pop(index), now)
            else:
                now += rng.random() * 0.2
                rng.choice(machines).dirty(now)
                for each in machines:
                    take(each, each.handle_deadline(now))
    for _ in range(4000):  # the world calms down
        if pending:
            perform(*pending.pop(0), now)
        else:
            now += 0.5
            for each in machines:
                each.dirty(now)
                take(each, each.handle_deadline(now))
    owners = [m for m in machines if m.state is S.OWNED]
    found = OwnerRecord.decode(engine.value or b"")
    assert found is not None
    assert [m.node for m in owners] == [found.node], (owners, found)
    assert not any(m.state in (S.CLAIMING, S.PROVISIONAL) for m in machines)
