"""What every engine of the fabric promises, held to each in turn: in process, NATS with one copy, NATS with three."""

from __future__ import annotations

import asyncio
import time

import pytest

from cloud.cluster.fabric import (
    PAYLOAD_BYTES_MAX,
    Conflict,
    Fabric,
    Fenced,
    NoOne,
    Reply,
    Unavailable,
)
from tests.cluster.conftest import MakeNode
from tests.support.waiting import until


class Inbox:
    """A listener that keeps what it got, and answers questions with `prefix` + question."""

    def __init__(self, prefix: bytes = b"") -> None:
        self.got: list[bytes] = []
        self.prefix = prefix

    def __call__(self, data: bytes, reply: Reply | None) -> None:
        self.got.append(data)
        if reply is not None:
            reply(self.prefix + data)


async def reached(node: Fabric, addr: str) -> None:
    """Wait until `node` has heard of a listener elsewhere (brokers tell each other within milliseconds)."""

    async def answered() -> bool:
        try:
            await node.ask(addr, b"?", 5)
        except NoOne:
            return False
        return True

    await until(answered, f"a listener of {addr}")


# ------------------------------------------------------------------------------------------------------ messages


async def test_a_message_reaches_a_listener_on_another_node_in_order(make_node: MakeNode, sid: str) -> None:
    a, b = await make_node(), await make_node()
    inbox = Inbox()
    await b.listen(f"s.{sid}", inbox)
    await reached(a, f"s.{sid}")
    inbox.got.clear()
    sent = [b"%d" % n for n in range(2000)]
    assert all(a.send(f"s.{sid}", data) for data in sent)
    await until(lambda: len(inbox.got) >= len(sent), "all messages")
    assert inbox.got == sent


async def test_send_and_ask_keep_their_order(make_node: MakeNode, sid: str) -> None:
    a, b = await make_node(), await make_node()
    inbox = Inbox()
    await b.listen(f"s.{sid}", inbox)
    await reached(a, f"s.{sid}")
    inbox.got.clear()
    for n in range(20):
        a.send(f"s.{sid}", b"send %d" % n)
        assert await a.ask(f"s.{sid}", b"ask %d" % n, 10) == b"ask %d" % n
    assert inbox.got == [b"%b %d" % (kind, n) for n in range(20) for kind in (b"send", b"ask")]


async def test_a_local_listener_is_nearest_and_the_newest_of_a_node_wins(
    make_node: MakeNode, sid: str
) -> None:
    a, b = await make_node(), await make_node()
    older, newer, remote = Inbox(), Inbox(), Inbox()
    await b.listen(f"s.{sid}", remote)
    await a.listen(f"s.{sid}", older)
    forget = await a.listen(f"s.{sid}", newer)
    assert a.send(f"s.{sid}", b"1")
    await until(lambda: newer.got, "the message")
    forget()
    assert a.send(f"s.{sid}", b"2")
    await until(lambda: older.got, "the message")
    assert (older.got, newer.got, remote.got) == ([b"2"], [b"1"], [])


async def test_fanout_reaches_every_listener_everywhere_once(make_node: MakeNode, sid: str) -> None:
    nodes = [await make_node() for _ in range(3)]
    inboxes = [Inbox() for _ in range(4)]
    for node, inbox in zip([*nodes, nodes[0]], inboxes, strict=True):
        await node.listen(f"e.{sid}", inbox)
    for node in nodes[
        1:
    ]:  # and each node has a listener of its own, so that `reached` proves nothing about others
        await node.listen(f"x{id(node)}.{sid}", Inbox())
        await reached(nodes[0], f"x{id(node)}.{sid}")
    assert nodes[0].send(f"e.{sid}", b"epoch 7", fanout=True)
    await until(lambda: all(inbox.got for inbox in inboxes), "every listener")
    assert [inbox.got for inbox in inboxes] == [[b"epoch 7"]] * 4


async def test_asking_where_nobody_listens_is_known_at_once(make_node: MakeNode, sid: str) -> None:
    node = await make_node()
    begin = time.monotonic()
    with pytest.raises(NoOne):
        await node.ask(f"s.{sid}", b"?", 30)
    assert time.monotonic() - begin < 5


async def test_an_answer_that_does_not_come_is_a_timeout(make_node: MakeNode, sid: str) -> None:
    a, b = await make_node(), await make_node()
    await b.listen(f"x.{sid}", Inbox())
    await b.listen(f"s.{sid}", lambda data, reply: None)
    await reached(a, f"x.{sid}")
    with pytest.raises(TimeoutError):
        await a.ask(f"s.{sid}", b"?", 0.05)


async def test_an_answer_may_come_later_and_counts_once(make_node: MakeNode, sid: str) -> None:
    a, b = await make_node(), await make_node()
    replies: list[Reply] = []

    def keep(data: bytes, reply: Reply | None) -> None:
        assert reply is not None
        if data == b"?":
            reply(b"")
        else:
            replies.append(reply)

    await b.listen(f"s.{sid}", keep)
    await reached(a, f"s.{sid}")
    asking = asyncio.ensure_future(a.ask(f"s.{sid}", b"question", 30))
    await until(lambda: replies, "the question")
    replies[0](b"first")
    replies[0](b"second")
    assert await asking == b"first"
    replies[0](b"too late")


async def test_a_handler_never_runs_inside_send(make_node: MakeNode, sid: str) -> None:
    node = await make_node()
    inbox = Inbox()
    await node.listen(f"s.{sid}", inbox)
    node.send(f"s.{sid}", b"1")
    assert inbox.got == []
    await until(lambda: inbox.got, "the message")


async def test_who_stopped_listening_hears_nothing_more(make_node: MakeNode, sid: str) -> None:
    a, b = await make_node(), await make_node()
    inbox, other = Inbox(), Inbox()
    forget = await b.listen(f"s.{sid}", inbox)
    await reached(a, f"s.{sid}")
    inbox.got.clear()
    b.send(f"s.{sid}", b"under way")
    forget()
    forget()
    await b.listen(f"x.{sid}", other)
    b.send(f"x.{sid}", b"later")
    await until(lambda: other.got, "the later message")
    assert inbox.got == []

    async def gone() -> bool:
        try:
            await a.ask(f"s.{sid}", b"?", 0.2)
        except NoOne:
            return True
        except TimeoutError:
            return False
        return False

    await until(gone, "the address to be empty")
    await b.listen(f"s.{sid}", inbox)
    await reached(a, f"s.{sid}")


async def test_a_listener_that_fails_costs_one_message(make_node: MakeNode, sid: str) -> None:
    a, b = await make_node(), await make_node()
    got: list[bytes] = []

    def fails(data: bytes, reply: Reply | None) -> None:
        got.append(data)
        if reply is not None:
            reply(b"")
        if data == b"1":
            raise RuntimeError("a bug above the fabric")

    await b.listen(f"s.{sid}", fails)
    await reached(a, f"s.{sid}")
    got.clear()
    a.send(f"s.{sid}", b"1")
    a.send(f"s.{sid}", b"2")
    await until(lambda: len(got) == 2, "both messages")
    assert b.stats.handler_errors == 1


@pytest.mark.parametrize(
    "addr", ["", "s.*", "s.>", "s..x", "s.a b", "s.ä", "a.b.c.d.e.f.g.h.i", "s." + "x" * 300]
)
async def test_a_malformed_address_is_refused(make_node: MakeNode, addr: str) -> None:
    node = await make_node()
    with pytest.raises(ValueError):
        node.send(addr, b"")
    with pytest.raises(ValueError):
        await node.listen(addr, Inbox())
    with pytest.raises(ValueError):
        await node.ask(addr, b"", 1)
    with pytest.raises(ValueError):
        await node.put(addr, b"")


async def test_what_is_too_large_is_refused_and_what_just_fits_passes(make_node: MakeNode, sid: str) -> None:
    a, b = await make_node(), await make_node()
    inbox = Inbox()
    await b.listen(f"s.{sid}", inbox)
    await reached(a, f"s.{sid}")
    with pytest.raises(ValueError):
        a.send(f"s.{sid}", b"x" * (PAYLOAD_BYTES_MAX + 1))
    assert len(await a.ask(f"s.{sid}", b"x" * (PAYLOAD_BYTES_MAX - 10), 30)) == PAYLOAD_BYTES_MAX - 10


async def test_a_closed_fabric_says_so(make_node: MakeNode, sid: str) -> None:
    node = await make_node()
    await node.listen(f"s.{sid}", Inbox())
    await node.close()
    await node.close()
    assert not node.connected
    assert not node.send(f"s.{sid}", b"1")
    with pytest.raises(Unavailable):
        await node.ask(f"s.{sid}", b"?", 1)
    with pytest.raises(Unavailable):
        await node.get(f"own.{sid}")
    with pytest.raises(Unavailable):
        await node.put(f"own.{sid}", b"1")


# ------------------------------------------------------------------------------------------------------ records


async def test_a_record_is_what_was_written_last(make_node: MakeNode, sid: str) -> None:
    a, b = await make_node(), await make_node()
    key = f"st.{sid}"
    assert await a.get(key) is None
    first = await a.put(key, b"one")
    assert await a.get(key) == (b"one", first)
    second = await b.put(key, b"two \x00\xff")
    assert second > first
    assert await b.get(key) == (b"two \x00\xff", second)
    third = await a.put(key, None)
    assert third > second
    assert await a.get(key) is None


async def test_a_record_is_created_once_and_again_after_its_deletion(make_node: MakeNode, sid: str) -> None:
    node = await make_node()
    key = f"own.{sid}"
    first = await node.put(key, b"one", rev=0)
    with pytest.raises(Conflict):
        await node.put(key, b"again", rev=0)
    await node.put(key, None, rev=first)
    with pytest.raises(Conflict):
        await node.put(key, b"old", rev=first)
    second = await node.put(key, b"two", rev=0)
    assert second > first
    assert await node.get(key) == (b"two", second)


async def test_an_empty_record_is_a_record(make_node: MakeNode, sid: str) -> None:
    node = await make_node()
    rev = await node.put(f"st.{sid}", b"")
    assert await node.get(f"st.{sid}") == (b"", rev)


async def test_a_stale_revision_is_refused(make_node: MakeNode, sid: str) -> None:
    node = await make_node()
    key = f"own.{sid}"
    first = await node.put(key, b"one", rev=0)
    second = await node.put(key, b"two", rev=first)
    for stale in (0, first, second + 1000):
        with pytest.raises(Conflict):
            await node.put(key, b"three", rev=stale)
    assert await node.get(key) == (b"two", second)


@pytest.mark.parametrize("writers", [20, 50])
async def test_of_many_creators_exactly_one_wins(make_node: MakeNode, sid: str, writers: int) -> None:
    nodes = [await make_node() for _ in range(3)]
    outcomes = await asyncio.gather(
        *(nodes[n % 3].put(f"own.{sid}", b"%d" % n, rev=0) for n in range(writers)), return_exceptions=True
    )
    winners = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(winners) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == writers - 1
    winner = outcomes.index(winners[0])
    assert await nodes[0].get(f"own.{sid}") == (b"%d" % winner, winners[0])


async def test_a_fence_lets_the_owner_write_and_stops_who_was_superseded(
    make_node: MakeNode, sid: str
) -> None:
    a, b = await make_node(), await make_node()
    own, state = f"own.{sid}", f"st.{sid}"
    first = await a.put(own, b"a", rev=0)
    await a.put(state, b"a1", fence=(own, first))
    await a.put(state, b"a2", fence=(own, first))
    second = await b.put(own, b"b", rev=first)
    with pytest.raises(Fenced):
        await a.put(state, b"a3", fence=(own, first))
    with pytest.raises(Fenced):
        await a.put(state, None, fence=(own, first))
    rev = await b.put(state, b"b1", fence=(own, second))
    assert await a.get(state) == (b"b1", rev)
    await b.put(own, None, rev=second)
    with pytest.raises(Fenced):
        await b.put(state, b"b2", fence=(own, second))


async def test_no_write_of_the_old_owner_lands_after_a_takeover(make_node: MakeNode, sid: str) -> None:
    """Four fenced writes race each of 100 takeovers; every takeover succeeds, and afterwards nothing old is written."""
    a, b = await make_node(), await make_node()
    old, new = a, b
    own, state = f"own.{sid}", f"st.{sid}"
    rev = await old.put(own, b"0", rev=0)
    retries = stale = 0
    for turn in range(1, 101):
        races = [
            asyncio.ensure_future(old.put(state, b"%d %d" % (turn - 1, n), fence=(own, rev)))
            for n in range(4)
        ]
        taken = await new.put(own, b"%d" % turn, rev=rev)
        mine = await new.put(state, b"%d" % turn, fence=(own, taken))
        outcomes = await asyncio.gather(*races, return_exceptions=True)
        assert all(isinstance(outcome, int | Fenced) for outcome in outcomes), outcomes
        stale += sum(isinstance(outcome, int) and outcome > taken for outcome in outcomes)
        assert await new.get(state) == (b"%d" % turn, mine)
        old, new, rev = new, old, taken
    retries = a.stats.put_retries + b.stats.put_retries
    print(f"100 takeovers, {retries} writes repeated")
    assert stale == 0


async def test_writes_in_parallel_under_one_fence_all_land(make_node: MakeNode, sid: str) -> None:
    """A server refuses one that meets another with the same expectation (10164): not a lost lease, tried again."""
    node = await make_node()
    own = f"own.{sid}"
    rev = await node.put(own, b"a", rev=0)
    revs = await asyncio.gather(*(node.put(f"st.{sid}.{n}", b"x", fence=(own, rev)) for n in range(20)))
    assert len(set(revs)) == 20


async def test_conditions_that_no_engine_can_hold_are_refused(make_node: MakeNode, sid: str) -> None:
    node = await make_node()
    with pytest.raises(ValueError, match="either"):
        await node.put(f"st.{sid}", b"", rev=1, fence=(f"own.{sid}", 1))
    with pytest.raises(ValueError, match="same session"):
        await node.put(f"st.{sid}", b"", fence=("own.other", 1))
    with pytest.raises(ValueError, match="same session"):
        await node.put(f"own.{sid}", b"", fence=(f"own.{sid}", 1))


async def test_the_results_of_every_batch_of_writes_come_back(make_node: MakeNode, sid: str) -> None:
    """Writes arrive while others are being committed: no result is lost, none goes to another (group commit)."""
    node = await make_node()
    count = 1500 if type(node).__name__ == "LocalFabric" else 200

    async def write(n: int) -> None:
        await asyncio.sleep(0.0001 * (n % 50))
        rev = await node.put(f"st.{sid}.{n}", b"%d" % n, rev=0)
        assert await node.get(f"st.{sid}.{n}") == (b"%d" % n, rev)

    async with asyncio.timeout(60):
        await asyncio.gather(*(write(n) for n in range(count)))
