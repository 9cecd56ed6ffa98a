"""Who is shown and when: pacing, trailing edge, ownership, boot screen, durations, reconnects."""

from __future__ import annotations

import itertools
import random as randomness
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.core.display import DisplayArbiter, DisplayTiming, Effect, Settled, Show, ViewState
from wire.errors import InvalidTransition

SYSTEM = "system.dashboard"
T = DisplayTiming()


def text(words: str) -> dict[str, Any]:
    return {"layoutType": "text_wall", "text": words}


class Lens:
    """Runs an arbiter in virtual time and keeps what the glasses were told."""

    def __init__(self) -> None:
        self.arbiter = DisplayArbiter(SYSTEM, T)
        self.now = 0.0
        self.shown: list[tuple[float, Show]] = []
        self.settled: list[Settled] = []

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Show):
                self.shown.append((self.now, effect))
            else:
                self.settled.append(effect)

    def run(self, until: float) -> None:
        while (due := self.arbiter.deadline) is not None and due <= until:
            assert due >= self.now - 1e-9, "a deadline must not stand still"
            self.now = max(self.now, due)
            before = self.arbiter.deadline
            self.do(self.arbiter.handle_deadline(self.now))
            assert self.arbiter.deadline != before, "a due deadline must be dealt with"
        self.now = until

    def app(self, package: str, *, foreground: bool = False) -> None:
        self.do(self.arbiter.running(package, foreground=foreground, now=self.now))

    def ask(self, package: str, words: str, duration: float | None = None, **more: Any) -> None:
        self.do(
            self.arbiter.request(package, more.pop("view", "main"), text(words), duration, self.now, **more)
        )

    def words(self, view: str = "main") -> list[str]:
        return [s.layout.get("text", s.layout["layoutType"]) for _, s in self.shown if s.view == view]


@pytest.fixture
def lens() -> Lens:
    lens = Lens()
    lens.app("fore", foreground=True)
    return lens


@pytest.mark.failure("DSP-02")
def test_a_burst_is_paced_and_its_last_update_always_arrives(lens: Lens) -> None:
    for number in range(100):
        lens.ask("fore", str(number))
        lens.run(lens.now + 0.01)
    lens.run(lens.now + T.interval)
    times = [at for at, _ in lens.shown]
    assert all(b - a >= T.interval - 1e-9 for a, b in itertools.pairwise(times))
    assert lens.words()[-1] == "99"
    outcomes = [s.outcome for s in lens.settled]
    assert outcomes.count("shown") + outcomes.count("replaced") == 100


@pytest.mark.failure("DSP-02")
def test_one_app_s_burst_does_not_lose_another_one_s_update(lens: Lens) -> None:
    lens.app("back")
    lens.ask("fore", "f1")
    lens.ask("fore", "f2")
    lens.ask("back", "b1", 1.0)
    lens.run(5.0)
    assert lens.words() == ["f1", "b1", "f2"]


def test_a_duration_ends_with_what_the_foreground_wants(lens: Lens) -> None:
    lens.app("back")
    lens.ask("fore", "stays")
    lens.run(1.0)
    lens.ask("back", "pops up", 1.5)
    lens.run(1.2)
    assert lens.words()[-1] == "pops up"
    lens.run(2.6)
    assert lens.words()[-1] == "stays"


def test_a_duration_without_anything_beneath_clears_the_view(lens: Lens) -> None:
    lens.ask("fore", "for two seconds", 2.0)
    lens.run(1.9)
    assert lens.words() == ["for two seconds"]
    lens.run(2.1)
    assert lens.words() == ["for two seconds", ""]
    assert lens.arbiter.state is ViewState.EMPTY


@pytest.mark.failure("DSP-11")
def test_a_background_app_holds_the_screen_for_a_bounded_time(lens: Lens) -> None:
    lens.app("back")
    lens.ask("back", "0")
    while lens.now < 20.0:
        lens.ask("fore", "waiting")
        lens.ask("back", f"{lens.now:.1f}")
        lens.run(lens.now + 0.25)
    first_back = next(at for at, s in lens.shown if s.package == "back")
    first_fore = next(at for at, s in lens.shown if s.package == "fore")
    assert first_fore - first_back <= T.lock + T.interval + 0.3
    again = next((at for at, s in lens.shown if s.package == "back" and at > first_fore), None)
    assert again is None or again - first_fore >= T.lock_pause - 0.3


def test_an_idle_background_app_gives_the_screen_back(lens: Lens) -> None:
    lens.app("back")
    lens.ask("fore", "f")
    lens.run(1.0)
    lens.ask("back", "b")
    lens.run(1.0 + T.lock_idle + T.interval + 0.05)
    assert lens.words() == ["f", "b", "f"]


def test_a_second_background_app_is_refused_while_the_first_holds(lens: Lens) -> None:
    lens.app("one")
    lens.app("two")
    lens.ask("one", "1")
    lens.ask("two", "2")
    assert [(s.package, s.outcome) for s in lens.settled if s.outcome == "refused"] == [("two", "refused")]


def test_an_app_that_does_not_run_shows_nothing(lens: Lens) -> None:
    lens.ask("stranger", "boo")
    assert lens.words() == []
    assert lens.settled[-1].outcome == "refused"


@pytest.mark.failure("DSP-05")
def test_nothing_of_a_stopped_app_is_shown_any_more(lens: Lens) -> None:
    lens.ask("fore", "a")
    lens.ask("fore", "pending")
    lens.do(lens.arbiter.stopped("fore", lens.now))
    lens.run(10.0)
    assert lens.words() == ["a", ""]


@pytest.mark.failure("DSP-03")
def test_the_first_display_of_a_starting_app_follows_its_boot_screen() -> None:
    lens = Lens()
    lens.do(lens.arbiter.starting("app", "App", lens.now))
    assert lens.shown[0][1].layout["title"] == "// MentraOS - Starting App"
    lens.run(0.5)
    lens.app("app", foreground=True)
    lens.ask("app", "hello")
    lens.run(1.0)
    assert lens.words() == ["App", "hello"]


@pytest.mark.failure("DSP-06")
def test_a_boot_screen_without_a_display_goes_away_by_itself() -> None:
    lens = Lens()
    lens.do(lens.arbiter.starting("app", "App", lens.now))
    lens.run(1.0)
    lens.app("app", foreground=True)
    lens.run(1.0 + T.boot + T.interval)
    assert lens.words()[-1] == ""
    assert lens.arbiter.deadline is None


@pytest.mark.failure("DSP-06")
def test_a_failed_start_is_told_briefly_and_at_once() -> None:
    lens = Lens()
    lens.do(lens.arbiter.starting("app", "App", lens.now))
    lens.run(2.0)
    lens.do(lens.arbiter.failed("app", lens.now))
    assert lens.words()[-1] == "App could not start"
    lens.run(2.0 + T.notice + T.interval)
    assert lens.words()[-1] == ""


def test_the_boot_screen_hides_another_app_for_a_bounded_time(lens: Lens) -> None:
    lens.ask("fore", "stays")
    lens.run(1.0)
    lens.do(lens.arbiter.starting("late", "Late", lens.now))
    lens.run(1.0 + T.boot + T.interval)
    assert lens.words() == ["stays", "Late", "stays"]


@pytest.mark.failure("DSP-08")
def test_a_new_connection_is_shown_what_should_be_there_with_its_remaining_time(lens: Lens) -> None:
    lens.ask("fore", "ten", 10.0)
    lens.run(4.0)
    lens.do(lens.arbiter.attached(lens.now))
    assert lens.shown[-1][1].duration == pytest.approx(6.0)
    lens.run(11.0)
    lens.do(lens.arbiter.attached(lens.now))
    assert lens.words()[-1] == ""


def test_the_dashboard_is_paced_as_well_and_an_app_s_card_gives_it_back(lens: Lens) -> None:
    for number in range(10):
        lens.ask(SYSTEM, f"d{number}", view="dashboard")
    lens.run(1.0)
    assert lens.words("dashboard") == ["d0", "d9"]
    lens.ask("fore", "card", view="dashboard")
    lens.run(1.0 + T.card + T.interval)
    assert lens.words("dashboard") == ["d0", "d9", "card", "d9"]
    assert lens.words("main") == []


def test_clear_view_clears_only_what_the_app_itself_shows(lens: Lens) -> None:
    lens.app("back")
    lens.ask("fore", "f")
    lens.run(1.0)
    clear = {"layoutType": "clear_view"}
    lens.do(lens.arbiter.request("back", "main", clear, None, lens.now))
    lens.run(2.0)
    assert lens.words() == ["f"]
    lens.do(lens.arbiter.request("fore", "main", clear, None, lens.now))
    lens.run(3.0)
    assert lens.words() == ["f", "clear_view"]


def test_force_skips_the_pace(lens: Lens) -> None:
    lens.ask("fore", "a")
    lens.ask("fore", "b", force=True)
    assert lens.words() == ["a", "b"]


def test_an_unlisted_transition_is_refused(lens: Lens) -> None:
    lens.arbiter._main.state = "nonsense"  # type: ignore[assignment]
    with pytest.raises((InvalidTransition, KeyError)):
        lens.ask("fore", "x")


@given(seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_any_sequence_is_paced_and_ends_with_the_right_owner(seed: int) -> None:
    rng = randomness.Random(seed)
    lens = Lens()
    packages = ["a", "b", "c"]
    for step in range(60):
        package = rng.choice(packages)
        match rng.randrange(9):
            case 0:
                lens.do(lens.arbiter.starting(package, package.upper(), lens.now))
            case 1:
                lens.app(package, foreground=package == "a")
            case 2:
                lens.do(lens.arbiter.stopped(package, lens.now))
            case 3:
                lens.do(lens.arbiter.failed(package, lens.now))
            case 4:
                lens.do(lens.arbiter.request(package, "main", {"layoutType": "clear_view"}, None, lens.now))
            case _:
                lens.ask(package, f"{package}{step}", rng.choice([None, None, 0.5, 3.0]))
        lens.run(lens.now + rng.choice([0.0, 0.05, 0.3, 2.0]))
    lens.app("a", foreground=True)
    lens.ask("a", "the end")
    lens.run(lens.now + 30.0)
    assert lens.words()[-1] == "the end"
    assert lens.arbiter.shown["main"]["package"] == "a"
    # `stopped` alone may be quicker than the interval: the ghost of a stopped app is worse than a short flicker.
    ids = [s.display_id for s in lens.settled]
    settled_once = {i: [s.outcome for s in lens.settled if s.display_id == i] for i in set(ids)}
    for outcomes in settled_once.values():
        assert outcomes in (
            ["shown"], ["replaced"], ["refused"], ["shown", "expired"], ["expired"]
        )  # fmt: skip


class _WithDetours(DisplayArbiter):
    """Takes every request the whole way."""

    def again(self, *_: Any) -> None:
        return None


class _Counting(DisplayArbiter):
    """Counts the requests that went the short way."""

    taken = 0

    def again(self, *arguments: Any) -> Show | None:
        found = super().again(*arguments)
        self.taken += found is not None
        return found


@pytest.mark.parametrize("seed", range(40))
def test_the_short_way_of_a_request_ends_where_the_whole_way_does(seed: int) -> None:
    rng = randomness.Random(seed)
    short, whole = _Counting(SYSTEM), _WithDetours(SYSTEM)
    apps = ["a", "b", "c"][: rng.choice((1, 1, 2, 3))]
    now = 0.0
    for _ in range(600):
        now += rng.choice((0.0, 0.001, 0.05, 0.3, 0.31, 1.0, 2.5))
        package = rng.choice(apps)
        kinds = ("show",) * 20 + ("run", "run", "system", "start", "stop", "fail", "attach", "due")
        match rng.choice(kinds):
            case "show":
                text = rng.choice(("", "x", "longer"))
                kind = rng.choice(("text_wall", "text_wall", "text_wall", "clear_view"))
                layout = {"layoutType": kind, "text": text}
                view: Any = rng.choice(("main", "main", "dashboard"))
                duration = rng.choice((None, None, None, 0, 0.2, 3.0))
                force = rng.choice((False, False, True))
                ours = short.request(package, view, layout, duration, now, force=force)
                theirs = whole.request(package, view, layout, duration, now, force=force)
            case "system":
                layout = {"layoutType": "text_wall", "text": rng.choice(("", "12:00"))}
                view = rng.choice(("main", "dashboard", "dashboard"))
                ours = short.request(SYSTEM, view, layout, None, now)
                theirs = whole.request(SYSTEM, view, layout, None, now)
            case "start":
                ours, theirs = short.starting(package, "A", now), whole.starting(package, "A", now)
            case "run":
                front = rng.random() < 0.5
                ours = short.running(package, foreground=front, now=now)
                theirs = whole.running(package, foreground=front, now=now)
            case "stop" if rng.random() < 0.2:
                ours, theirs = short.stopped(package, now), whole.stopped(package, now)
            case "fail":
                ours, theirs = short.failed(package, now), whole.failed(package, now)
            case "attach":
                ours, theirs = short.attached(now), whole.attached(now)
            case _:
                ours, theirs = short.handle_deadline(now), whole.handle_deadline(now)
        assert ours == theirs
        assert short.deadline == whole.deadline
        assert short.shown == whole.shown
        assert short.state is whole.state
        assert short.export(now) == whole.export(now)
    assert short.taken


def test_after_our_restart_what_the_lens_holds_for_nobody_is_taken_away() -> None:
    lens = Lens()
    lens.app("front", foreground=True)
    lens.do(lens.arbiter.found("gone", False, lens.now))
    assert lens.words() == [""]
    lens.do(lens.arbiter.found("gone", False, lens.now))
    assert lens.words() == [""], "said twice"


def test_after_our_restart_a_display_stays_as_long_as_its_app() -> None:
    """An app that comes back by itself does not draw again; what it had on the lens is right."""
    lens = Lens()
    lens.app("front", foreground=True)
    lens.app("back")
    lens.app("other")
    lens.do(lens.arbiter.found("back", True, lens.now))
    lens.do(lens.arbiter.stopped("other", lens.now))
    assert lens.words() == []
    lens.do(lens.arbiter.stopped("back", lens.now))
    assert lens.words() == [""], "although an app in front runs, which has drawn nothing since"


def test_after_our_restart_an_app_can_take_away_what_it_had_shown_before() -> None:
    lens = Lens()
    lens.app("front", foreground=True)
    lens.app("other")
    lens.do(lens.arbiter.found("front", True, lens.now))
    clear = {"layoutType": "clear_view"}
    lens.do(lens.arbiter.request("other", "main", clear, None, lens.now))
    assert lens.words() == [], "that is not its own"
    lens.do(lens.arbiter.request("front", "main", clear, None, lens.now))
    assert lens.words() == ["clear_view"]


def test_what_the_lens_holds_is_not_asked_about_once_we_have_drawn() -> None:
    lens = Lens()
    lens.app("front", foreground=True)
    lens.ask("front", "new")
    lens.do(lens.arbiter.found("gone", False, lens.now))
    assert lens.words() == ["new"]
