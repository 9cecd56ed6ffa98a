"""Work that may wait: in order, at once while there is time, in slices when there is not."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from cloud.turns import SLICE, Turns


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def drained(turns: Turns) -> int:
    """Let it finish; the number of turns that it took."""
    count = 0
    while len(turns):
        await asyncio.sleep(0)
        count += 1
        assert count < 10_000
    await asyncio.sleep(0)
    return count


async def test_work_is_done_at_once_while_the_turn_has_time() -> None:
    turns, done = Turns(), list[int]()
    assert turns.do(lambda: done.append(1))
    assert done == [1]
    assert turns.delayed == 0
    await drained(turns)


async def test_what_the_turn_has_no_time_for_waits_in_order() -> None:
    turns, done = Turns(), list[int]()
    turns.do(lambda: busy(SLICE))
    for number in range(5):
        assert not turns.do(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == []
    await drained(turns)
    assert done == [0, 1, 2, 3, 4]
    assert turns.delayed == 5


async def test_a_turn_never_takes_more_than_its_slice_and_one_piece() -> None:
    turns = Turns()
    for _ in range(40):
        turns.do(lambda: busy(SLICE / 4))
    assert await drained(turns) >= 7  # four pieces each, and four at once


async def test_time_is_given_anew_each_turn() -> None:
    turns = Turns()
    for _ in range(10):
        assert turns.do(lambda: busy(SLICE * 0.7))
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_work_that_asks_for_more_work_does_not_starve_the_loop() -> None:
    turns, done = Turns(), list[int]()

    def again(left: int) -> None:
        busy(SLICE)
        done.append(left)
        if left:
            turns.do(lambda: again(left - 1))

    again(3)
    await asyncio.sleep(0)
    assert len(done) < 4
    for _ in range(20):
        await asyncio.sleep(0)
    assert done == [3, 2, 1, 0]


async def test_much_work_is_waited_for_while_others_have_their_turns() -> None:
    turns, done, others = Turns(), list[int](), 0

    async def somebody_else() -> None:
        nonlocal others
        while len(done) < 40:
            others += 1
            await asyncio.sleep(0)

    def piece(number: int) -> None:
        busy(SLICE / 4)
        done.append(number)

    other = asyncio.ensure_future(somebody_else())
    await turns.each(partial(piece, number) for number in range(40))
    assert done == list(range(40))
    assert others >= 5
    await other
    await turns.each(())


async def test_a_bug_in_one_piece_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    turns, done = Turns(), list[int]()
    turns.do(lambda: busy(SLICE))
    turns.do(lambda: 1 / 0)  # type: ignore[arg-type]
    turns.do(lambda: done.append(1))
    await drained(turns)
    assert done == [1]
    assert "failed" in caplog.text
