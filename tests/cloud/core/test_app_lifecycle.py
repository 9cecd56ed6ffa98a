"""The life of one app: every listed transition, and the rules that the failure catalogue asks for."""

from __future__ import annotations

import itertools
import random as randomness

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.core import app_lifecycle as life
from cloud.core.app_lifecycle import AppLifecycle, AppReason, AppState, LifecycleTiming, StopReason
from wire.errors import InvalidTransition

T = LifecycleTiming()


def new(random: float = 0.5) -> AppLifecycle:
    return AppLifecycle("com.example.app", T, random=lambda: random)


def kinds(effects: list[life.Effect]) -> list[str]:
    return [type(e).__name__ for e in effects if not isinstance(e, life.Moved)]


def connected(now: float = 0.0) -> AppLifecycle:
    app = new()
    app.start(now)
    app.loaded(app.cycle, now)
    app.identified(1, now)
    assert app.state is AppState.CONNECTED
    return app


def test_a_start_posts_one_session_request_and_ends_with_the_acknowledgement() -> None:
    app = new()
    assert kinds(app.start(0.0)) == ["Launch"]
    assert app.is_starting
    assert kinds(app.loaded(1, 0.1)) == []
    assert kinds(app.identified(7, 0.2)) == ["Accepted", "Started"]
    assert app.state is AppState.CONNECTED
    assert app.deadline is None


def test_an_app_that_is_faster_than_its_settings_waits_for_them() -> None:
    app = new()
    app.start(0.0)
    assert kinds(app.identified(7, 0.1)) == []
    assert app.state is AppState.CONNECTING
    assert kinds(app.loaded(1, 0.2)) == ["Accepted", "Started"]


def test_slow_storage_does_not_cost_the_app_its_five_seconds() -> None:
    app = new()
    app.start(0.0)
    app.identified(7, 0.1)
    assert app.deadline == pytest.approx(0.1 + T.settings)
    assert "Accepted" in kinds(app.handle_deadline(0.1 + T.settings))


def test_a_second_start_shares_the_first_one_s_outcome() -> None:
    app = new()
    app.start(0.0)
    assert app.start(0.1) == []
    assert app.cycle == 1


@pytest.mark.failure("APP-03")
def test_an_app_that_never_connects_leaves_loading_in_time_with_a_reason() -> None:
    app = new()
    app.start(0.0)
    app.request_sent(1, 0.0)
    app.webhook_answered(1, 0.05, ok=True)
    assert app.is_starting
    effects = app.handle_deadline(T.start)
    started = next(e for e in effects if isinstance(e, life.Started))
    assert (started.ok, started.stage) == (False, life.Stage.TIMEOUT)
    assert app.state is AppState.ERROR


#: What the shell tells of one start, as (seconds, input), when the start ends by its deadline, and what is to blame.
SENT, ANSWERED, FAILED, SEATED, GONE = "sent", "answered", "failed", "seated", "gone"
STARTS: dict[str, tuple[list[tuple[float, str]], float, life.Stage]] = {
    "sent at once": ([(0.0, SENT)], T.start, life.Stage.TIMEOUT),
    "waited in our queue": ([(5.0, SENT)], 5.0 + T.start, life.Stage.TIMEOUT),
    "waited for its pace and in our queue": ([(9.0, SENT)], 9.0 + T.start, life.Stage.TIMEOUT),
    "heard of twice": ([(1.0, SENT), (6.0, SENT)], 1.0 + T.start, life.Stage.TIMEOUT),
    "an answer proves it": ([(4.0, ANSWERED)], 4.0 + T.start, life.Stage.TIMEOUT),
    "an answer after it moves nothing": ([(2.0, SENT), (4.0, ANSWERED)], 2.0 + T.start, life.Stage.TIMEOUT),
    "never sent": ([], T.unsent, life.Stage.HELD_BACK),
    "a socket came and went before it": ([(1.0, SEATED), (2.0, GONE)], T.unsent, life.Stage.HELD_BACK),
    "a socket came, it was sent, the socket went": (
        [(1.0, SEATED), (3.0, SENT), (4.0, GONE)], 3.0 + T.start, life.Stage.TIMEOUT
    ),
    "its second post shares the time": (
        [(3.0, SENT), (4.0, FAILED), (7.0, SENT)], 3.0 + T.start, life.Stage.TIMEOUT
    ),
    "its second post never left": ([(3.0, SENT), (4.0, FAILED)], 3.0 + T.start, life.Stage.WEBHOOK),
    "its first post never left": ([(1.0, FAILED), (7.0, SENT)], 7.0 + T.start, life.Stage.TIMEOUT),
}  # fmt: skip


@pytest.mark.failure("APP-05")
@pytest.mark.parametrize("case", STARTS)
def test_an_app_has_its_time_from_when_its_request_was_sent_and_our_own_queue_is_not_charged_to_it(
    case: str,
) -> None:
    inputs, ends, stage = STARTS[case]
    app = new()
    app.start(0.0)
    for at, what in inputs:
        while app.deadline is not None and app.deadline <= at:
            assert "Started" not in kinds(app.handle_deadline(app.deadline))
        match what:
            case "sent":
                assert app.request_sent(1, at) == []
            case "answered" | "failed":
                assert app.webhook_answered(1, at, ok=what == ANSWERED, message="refused") == []
            case "seated":
                app.identified(1, at)
            case _:
                app.lost(1, at)
    now, effects = 0.0, list[life.Effect]()
    while app.is_starting:
        assert app.deadline is not None
        now = app.deadline
        effects = app.handle_deadline(now)
    assert now == pytest.approx(ends)
    assert now <= T.unsent + T.start, "the whole is bounded too"
    [started] = [e for e in effects if isinstance(e, life.Started)]
    assert (started.ok, started.stage) == (False, stage)
    assert life.CancelLaunch(1) in effects, "a post that is still under way must not meet the next one"
    assert app.failures == (0 if stage is life.Stage.HELD_BACK else 1)


def test_a_request_of_a_former_cycle_that_leaves_now_gives_the_present_one_no_time() -> None:
    app = new()
    app.start(0.0)
    app.request_sent(1, 0.0)
    app.handle_deadline(T.start)
    assert app.deadline is not None
    again = app.deadline
    app.handle_deadline(again)
    assert app.cycle == 2
    before = app.deadline
    assert app.request_sent(1, again + 1.0) == []
    assert app.deadline == before


@pytest.mark.parametrize("state", ["connected", "grace", "stopping", "disconnected", "error"])
def test_a_request_that_leaves_after_its_start_has_ended_changes_nothing(state: str) -> None:
    app = new()
    app.start(0.0)
    if state == "error":
        app.webhook_answered(1, 0.1, ok=False, message="spared", retry_after=30.0)
    else:
        app.loaded(1, 0.1)
        app.identified(1, 0.1)
    if state == "grace":
        app.lost(1, 0.2)
    if state in ("stopping", "disconnected"):
        app.stop(StopReason.USER_DISABLED, 0.2)
    if state == "disconnected":
        app.stop_answered(1, 0.3)
    assert app.state.value == state
    before = app.deadline
    assert app.request_sent(1, 0.4) == []
    assert (app.state.value, app.deadline) == (state, before)


def test_a_start_that_is_held_back_is_no_failure_of_the_app() -> None:
    app = new()
    app.start(0.0, by_user=False)
    effects = app.webhook_answered(1, 0.1, ok=False, message="spared", retry_after=30.0)
    assert [e.stage for e in effects if isinstance(e, life.Started)] == [life.Stage.HELD_BACK]
    assert app.failures == 0
    assert app.deadline == pytest.approx(30.1)


def test_a_failed_webhook_is_tried_once_more_for_the_wearer() -> None:
    app = new()
    app.start(0.0)
    assert app.webhook_answered(1, 0.1, ok=False, message="refused") == []
    assert app.deadline == pytest.approx(1.1)
    [again] = [e for e in app.handle_deadline(1.1) if isinstance(e, life.Launch)]
    assert not again.first
    assert "Started" in kinds(app.webhook_answered(1, 1.2, ok=False, message="refused"))
    assert app.state is AppState.ERROR


@pytest.mark.failure("APP-01")
@pytest.mark.parametrize("state", ["loading", "connecting", "connected", "grace", "error", "stopping"])
def test_a_user_stop_is_never_resurrected(state: str) -> None:
    app = new()
    app.start(0.0)
    if state in ("connecting", "connected", "grace"):
        app.identified(1, 0.1)
    if state in ("connected", "grace", "stopping"):
        app.loaded(1, 0.1)
    if state == "grace":
        app.lost(1, 0.2)
    if state == "error":
        app.request_sent(1, 0.0)
        app.handle_deadline(T.start)
    app.stop(StopReason.USER_DISABLED, 20.0)
    now, launches = 20.0, 0
    for step in range(300):
        now += 1.0
        effects = app.handle_deadline(now)
        if step % 7 == 0:
            effects += app.identified(100 + step, now)
            effects += app.webhook_answered(app.cycle, now, ok=False, message="late")
            effects += app.stop_answered(app.cycle, now)
            effects += app.glasses(step % 2 == 0, now)
        launches += sum(isinstance(e, life.Launch) for e in effects)
        assert not any(isinstance(e, life.Accepted) for e in effects)
    assert launches == 0
    assert app.state is AppState.DISCONNECTED
    assert not app.wanted


@pytest.mark.failure("CON-02")
def test_the_late_close_of_a_superseded_socket_changes_nothing() -> None:
    app = connected()
    effects = app.identified(2, 1.0)
    assert [e.connection_id for e in effects if isinstance(e, life.CloseSocket)] == [1]
    assert app.lost(1, 1.1) == []
    assert (app.state, app.connection_id) == (AppState.CONNECTED, 2)


def test_an_app_back_within_grace_is_the_same_instance() -> None:
    app = connected()
    app.lost(1, 10.0)
    assert app.state is AppState.GRACE
    [accepted] = [e for e in app.identified(2, 14.9) if isinstance(e, life.Accepted)]
    assert not accepted.fresh
    assert app.cycle == 1


@pytest.mark.failure("APP-02")
@pytest.mark.failure("APP-04")
def test_restarts_are_spaced_bounded_and_one_at_a_time() -> None:
    app = connected()
    app.lost(1, 100.0)
    launches: list[float] = []
    now = 100.0
    while now < 100.0 + 900.0:
        due = app.deadline
        assert due is not None
        now = due
        effects = app.handle_deadline(now)
        if any(isinstance(e, life.Launch) for e in effects):
            launches.append(now)
            app.webhook_answered(app.cycle, now + 0.01, ok=False, message="refused")
    assert sum(at < 220.0 for at in launches) <= 8
    gaps = [b - a for a, b in itertools.pairwise(launches)]
    assert gaps[:6] == pytest.approx([2, 4, 8, 16, 30, 30], abs=0.2)
    assert gaps[-1] == pytest.approx(300, abs=1)
    assert app.wanted


@pytest.mark.failure("APP-15")
def test_an_app_that_ends_after_every_start_is_left_alone_for_a_while() -> None:
    app = new()
    app.start(0.0)
    now, starts = 0.0, 1
    connection = 0
    while now < 600.0:
        app.loaded(app.cycle, now)
        connection += 1
        app.identified(connection, now + 0.1)
        app.lost(connection, now + 0.6)
        effects: list[life.Effect] = []
        while not any(isinstance(e, life.Launch) for e in effects):
            assert app.deadline is not None
            now = app.deadline
            effects = app.handle_deadline(now)
        starts += 1
    assert starts <= 12
    assert app.wanted


def test_an_app_whose_on_session_failed_is_closed_cleanly_and_started_anew() -> None:
    app = connected()
    effects = app.webhook_answered(1, 0.5, ok=False, message="500", from_app=True)
    assert [(e.code, e.connection_id) for e in effects if isinstance(e, life.CloseSocket)] == [(1000, 1)]
    assert app.state is AppState.ERROR


@pytest.mark.failure("APP-05")
def test_a_late_socket_of_a_wanted_app_completes_the_start() -> None:
    app = new()
    app.start(0.0)
    app.loaded(1, 0.0)
    app.request_sent(1, 0.0)
    app.handle_deadline(T.start)
    assert app.state is AppState.ERROR
    assert "Accepted" in kinds(app.identified(5, T.start + 0.5))


def test_a_socket_after_the_app_itself_reported_failure_is_refused() -> None:
    app = new()
    app.start(0.0, by_user=False)
    app.webhook_answered(1, 5.0, ok=False, message="500", from_app=True)
    assert app.state is AppState.ERROR
    assert kinds(app.identified(5, 5.5)) == ["Refused"]


def test_ownership_release_and_close_is_no_loss() -> None:
    app = connected()
    app.released(1)
    effects = app.lost(1, 1.0)
    assert app.state is AppState.DISCONNECTED
    assert app.reason is AppReason.RELEASED
    assert "Forget" in kinds(effects)
    assert app.deadline is None


def test_without_glasses_a_lost_app_sleeps_and_wakes_with_them() -> None:
    app = connected()
    app.glasses(False, 1.0)
    app.lost(1, 2.0)
    app.handle_deadline(2.0 + T.grace)
    assert (app.state, app.reason) == (AppState.DISCONNECTED, AppReason.DORMANT)
    assert "Launch" in kinds(app.glasses(True, 30.0))


@pytest.mark.failure("APP-06")
def test_a_stop_ends_within_a_second_whatever_the_webhook_does() -> None:
    app = connected()
    assert kinds(app.stop(StopReason.USER_DISABLED, 1.0)) == ["Forget", "PostStop"]
    assert app.deadline == pytest.approx(1.0 + T.stop)
    effects = app.handle_deadline(1.0 + T.stop)
    assert kinds(effects) == ["CloseSocket", "Stopped"]
    assert app.state is AppState.DISCONNECTED


@pytest.mark.failure("CON-07")
def test_start_stop_start_stop_ends_stopped_and_start_again_ends_started() -> None:
    app = new()
    for _ in range(2):
        app.start(0.0)
        app.stop(StopReason.USER_DISABLED, 0.0)
    assert app.state is AppState.STOPPING
    assert "Stopped" in kinds(app.stop_answered(app.cycle, 0.1))
    assert not app.wanted
    app.start(1.0)
    app.stop(StopReason.USER_DISABLED, 1.0)
    app.start(1.0)
    assert "Launch" in kinds(app.stop_answered(app.cycle, 1.2))


@pytest.mark.failure("APP-18")
def test_wrong_keys_change_nothing_but_the_words_of_a_failure() -> None:
    app = new()
    app.start(0.0)
    for _ in range(50):
        app.wrong_key()
    assert app.state is AppState.LOADING
    app.loaded(1, 0.1)
    assert "Accepted" in kinds(app.identified(3, 2.0))


def test_an_unlisted_transition_is_refused_and_changes_nothing() -> None:
    app = new()
    with pytest.raises(InvalidTransition):
        app._move(AppState.ERROR, AppReason.LINK_LOST, 0.0)
    assert app.state is AppState.DISCONNECTED


@given(seed=st.integers(0, 2**32), steps=st.integers(10, 120))
@settings(max_examples=150, deadline=None)
def test_any_sequence_of_inputs_keeps_the_invariants(seed: int, steps: int) -> None:
    """At most one request in flight; a stopped app stays stopped; a deadline exists in every transient state."""
    rng = randomness.Random(seed)
    app = AppLifecycle("p", T, random=rng.random)
    now, connections = 0.0, 0
    for _ in range(steps):
        now += rng.choice([0.0, 0.01, 0.5, 1.0, 6.0, 40.0])
        effects: list[life.Effect] = []
        stopped = not app.wanted
        match rng.randrange(12):
            case 0:
                effects = app.start(now, by_user=rng.random() < 0.5)
                stopped = False
            case 1:
                effects = app.stop(StopReason.USER_DISABLED, now)
            case 2:
                effects = app.loaded(rng.choice([app.cycle, app.cycle - 1]), now)
            case 3:
                effects = app.webhook_answered(
                    rng.choice([app.cycle, app.cycle - 1]),
                    now,
                    ok=rng.random() < 0.5,
                    from_app=rng.random() < 0.5,
                )
            case 4 | 5:
                connections += 1
                effects = app.identified(connections, now)
            case 6:
                effects = app.lost(rng.randrange(connections + 1), now)
            case 7:
                effects = app.stop_answered(app.cycle, now)
            case 8:
                effects = app.glasses(rng.random() < 0.7, now)
            case 9:
                app.released(connections)
            case 10:
                effects = app.request_sent(rng.choice([app.cycle, app.cycle - 1]), now)
                assert effects == []
            case _:
                effects = app.handle_deadline(now)
        if app.state is AppState.LOADING:
            assert app.deadline is not None
            assert app.deadline <= now + T.unsent + T.start
        if stopped and not app.wanted:
            assert not any(isinstance(e, life.Launch | life.Accepted) for e in effects)
        assert sum(isinstance(e, life.Launch) for e in effects) <= 1
        if app.state in (
            AppState.LOADING, AppState.CONNECTING, AppState.GRACE, AppState.STOPPING, AppState.ERROR
        ):  # fmt: skip
            assert app.deadline is not None
        assert (app.connection_id is not None) or app.state is not AppState.CONNECTED


@pytest.mark.failure("CON-02")
@pytest.mark.failure("APP-14")
def test_a_socket_opened_before_the_present_one_is_no_newer_for_being_heard_of_later() -> None:
    """A slow network delivered the init of an instance that its app server has long given up (seed 401891)."""
    app = new()
    app.start(0.0)
    app.loaded(app.cycle, 0.0)
    app.identified(5, 9.0)
    effects = app.identified(4, 11.0)
    assert effects == [life.CloseSocket(4, 1008, "replaced")]
    assert app.connection_id == 5
    assert app.lost(4, 11.1) == []
    assert app.state is AppState.CONNECTED
    assert "Accepted" in kinds(app.identified(6, 12.0)), "a newer one still wins"
