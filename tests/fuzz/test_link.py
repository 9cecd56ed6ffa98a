"""wire.link: whatever a hostile peer writes or announces, the link neither raises nor grows nor lies about its state."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import examples
from wire.link import Deliver, Link, LinkLimits, LinkState, join
from wire.messages import Delivery
from wire.messages.cloud_to_glasses import LinkWelcome
from wire.messages.glasses_to_cloud import LinkHello

offsets = st.one_of(st.integers(0, 12), st.integers(0, 10**15 - 1))
hellos = st.builds(
    LinkHello,
    epoch=st.one_of(st.none(), st.sampled_from(["me", "other"]), st.text(max_size=64)),
    offset=offsets,
    own_epoch=st.sampled_from(["a", "b"]),
    own_offset=offsets,
)
welcomes = st.builds(
    LinkWelcome,
    epoch=st.sampled_from(["a", "b"]),
    offset=offsets,
    recovered=st.booleans(),
    peer_offset=offsets,
    peer_recovered=st.booleans(),
)
frames = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda offset, ack: join(b'{"type":"x"}', offset, ack), st.none() | offsets, st.none() | offsets
    ),
    st.sampled_from(
        [b'{"type":"glassbridge_skip","linkOffset":3}', b'{"type":"glassbridge_ack","linkAck":2}']
    ),
)
actions = st.one_of(
    st.tuples(st.just("frame"), frames),
    st.tuples(st.just("send"), st.sampled_from(list(Delivery))),
    st.tuples(st.just("hello"), hellos),
    st.tuples(st.just("welcome"), welcomes),
    st.tuples(st.just("lost"), st.none()),
    st.tuples(st.just("connect"), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 20)),
)


@given(st.booleans(), st.lists(actions, max_size=60))
@examples(250)
def test_any_peer(initiator: bool, script: list[tuple[str, Any]]) -> None:
    limits = LinkLimits(log_messages_max=6, window_messages=3, latest_keys_max=2)
    link = Link("me", initiator=initiator, limits=limits)
    now, connection, sent = 0.0, 0, 0
    for action, value in script:
        match action:
            case "frame":
                before = link.state
                effects = link.received(connection, value, now)
                assert before in (LinkState.RESUMING, LinkState.LIVE) or not any(
                    isinstance(e, Deliver) for e in effects
                )
            case "send":
                sent += 1
                link.send(b'{"n":%d}' % sent, value, now=now, key=str(sent), life=5.0)
            case "hello":
                link.greeted(connection, value, now)
            case "welcome":
                link.welcomed(connection, value, now)
            case "lost":
                link.lost(connection, now)
            case "connect":
                connection += 1
                link.connected(connection, now)
            case "wait":
                now += value
                link.handle_deadline(now)
        assert link.backlog <= limits.log_messages_max
        assert link.deadline is None or link.deadline > now - 1e-9 or link.handle_deadline(now) is not None
        assert (link.connection_id is None) == (link.state in (LinkState.DETACHED, LinkState.CLOSED))
