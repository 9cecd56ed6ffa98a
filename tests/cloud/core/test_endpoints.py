"""Breakers and pace per app server."""

from __future__ import annotations

import pytest

from cloud.core.endpoints import Endpoints, Go, HeldBack


@pytest.mark.failure("APP-11")
def test_an_endpoint_that_never_worked_is_probed_rarely_and_never_kept_from_the_wearer() -> None:
    ends = Endpoints()
    posts = 0
    for second in range(600):
        now = float(second)
        if second % 15 == 0 and isinstance(ends.ask("http://dead", now, by_user=False), Go):
            posts += 1
            ends.failed("http://dead", now)
    assert posts <= 8
    assert isinstance(ends.ask("http://dead", 600.0, by_user=True), Go)


@pytest.mark.failure("APP-02")
def test_an_outage_of_a_working_endpoint_does_not_open_its_breaker() -> None:
    ends = Endpoints()
    ends.succeeded("http://a", 0.0)
    for attempt in range(18):
        assert isinstance(ends.ask("http://a", attempt * 30.0, by_user=False), Go)
        ends.failed("http://a", attempt * 30.0)
    for second in range(600, 700):
        ends.failed("http://a", float(second))
    assert isinstance(ends.ask("http://a", 700.0, by_user=False), HeldBack)
    ends.seen("http://a")
    assert isinstance(ends.ask("http://a", 700.1, by_user=False), Go)


@pytest.mark.failure("APP-02")
def test_the_first_success_after_an_outage_is_told_once_and_an_unsteady_server_brings_nobody_forward() -> (
    None
):
    ends = Endpoints()
    assert not ends.succeeded("http://a", 0.0), "nothing was wrong"
    ends.failed("http://a", 1.0)
    assert not ends.succeeded("http://b", 2.0), "another server"
    assert ends.succeeded("http://a", 3.0)
    assert not ends.succeeded("http://a", 3.1)
    ends.failed("http://a", 4.0)
    assert not ends.succeeded("http://a", 5.0), "it works every other time"
    ends.failed("http://a", 12.0)
    assert ends.succeeded("http://a", 13.1)


@pytest.mark.failure("APP-02")
def test_an_endpoint_is_away_while_one_that_worked_lately_fails() -> None:
    ends = Endpoints()
    ends.failed("http://never", 0.0)
    assert not ends.is_away("http://never", 0.0), "one that never worked is probed rarely"
    ends.succeeded("http://a", 0.0)
    assert not ends.is_away("http://a", 1.0)
    ends.failed("http://a", 2.0)
    assert ends.is_away("http://a", 3.0)
    assert not ends.is_away("http://a", 700.0), "it is no outage any more"
    ends.succeeded("http://a", 701.0)
    assert not ends.is_away("http://a", 701.0)


@pytest.mark.failure("APP-10")
def test_fifty_restarts_of_one_endpoint_are_spread() -> None:
    ends = Endpoints()
    delays = [ends.ask("http://a", 5.0, by_user=False) for _ in range(50)]
    assert all(isinstance(d, Go) for d in delays)
    assert isinstance(delays[-1], Go)
    assert delays[-1].delay == pytest.approx(49 / 20)


@pytest.mark.failure("APP-10")
def test_a_herd_is_let_through_at_the_rate_and_the_wearer_does_not_queue() -> None:
    ends = Endpoints()
    ends.succeeded("http://a", 0.0)
    waiting = dict.fromkeys(range(500), 0.0)
    posts: list[float] = []
    now = 0.0
    while waiting and now < 60.0:
        for user, due in list(waiting.items()):
            if due > now:
                continue
            match ends.ask("http://a", now, by_user=False):
                case Go(delay):
                    posts.append(now + delay)
                    del waiting[user]
                case HeldBack(wait):
                    waiting[user] = now + wait
        now += 0.05
    assert not waiting
    assert all(sum(at <= p < at + 1.0 for p in posts) <= 21 for at in posts)
    assert ends.ask("http://a", 1.0, by_user=True) == Go(0.0)


@pytest.mark.failure("APP-02")
def test_an_endpoint_that_is_away_is_looked_at_by_one_until_it_is_back_or_given_up() -> None:
    ends = Endpoints()
    assert not ends.failed("http://never", 0.0), "one that never worked is probed rarely"
    ends.succeeded("http://a", 0.0)
    assert ends.failed("http://a", 1.0)
    assert not ends.failed("http://a", 2.0), "somebody looks already"
    assert ends.looks_on("http://a", 3.0)
    ends.succeeded("http://a", 4.0)
    assert not ends.looks_on("http://a", 5.0)
    assert ends.failed("http://a", 6.0), "the next outage"
    assert not ends.looks_on("http://a", 700.0), "it is no outage any more"
    assert not ends.looks_on("http://unknown", 700.0)


@pytest.mark.failure("APP-02")
@pytest.mark.parametrize(
    ("attempts", "scout"),
    [([], None), ([5.0], None), ([5.0, 9.0, 7.0], 1), ([5.0, 5.0], 0), ([0.0, 1.0], 1)],
)
def test_the_one_whose_turn_is_farthest_away_looks_for_all(attempts: list[float], scout: int | None) -> None:
    assert Endpoints.scout(attempts) == scout
