"""The link: exactly once and in order over any number of lost connections, or it says that it is not so."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.errors import InvalidTransition
from wire.link import (
    TRANSITIONS,
    Announce,
    Deliver,
    Discarded,
    Disconnect,
    Expired,
    Link,
    LinkEffect,
    LinkLimits,
    LinkState,
    Resumed,
    Skipped,
    Transmit,
    Welcome,
    join,
    split,
)
from wire.messages import CLOUD_TO_GLASSES, GLASSES_TO_CLOUD, Delivery
from wire.messages.cloud_to_glasses import DisplayEvent, LinkWelcome
from wire.messages.glasses_to_cloud import ButtonPress, LinkHello

_ids = itertools.count(1)


def number(n: int) -> bytes:
    return orjson.dumps({"type": "n", "n": n})


@dataclass
class End:
    """One end with its application: what it delivered, what it was told."""

    link: Link
    delivered: list[bytes] = field(default_factory=list)
    resumed: list[Resumed] = field(default_factory=list)
    told: list[LinkEffect] = field(default_factory=list)


@dataclass
class Pair:
    """Both ends and one connection between them that delivers in order, until it is cut at any frame."""

    limits: LinkLimits = field(default_factory=LinkLimits)
    announces: bool = True  # False: the glasses client is a Mentra phone
    now: float = 0.0
    connection: int | None = None
    up: deque[object] = field(default_factory=deque)
    down: deque[object] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.edge = End(Link("edge-1", initiator=True, limits=self.limits))
        self.cloud = End(Link("cloud-1", initiator=False, limits=self.limits))

    def perform(self, end: End, effects: list[LinkEffect]) -> None:
        pipe = self.up if end is self.edge else self.down
        for effect in effects:
            match effect:
                case Transmit(connection_id, data):
                    assert connection_id == end.link.connection_id
                    if connection_id == self.connection:
                        pipe.append(data)
                case Announce(connection_id, hello):
                    assert not pipe, "the announcement is the first frame"
                    if connection_id == self.connection and self.announces:
                        pipe.append(LinkHello.model_validate_json(hello.model_dump_json(by_alias=True)))
                case Welcome(connection_id, welcome):
                    if connection_id == self.connection:
                        # by way of JSON, as on the wire
                        pipe.append(LinkWelcome.model_validate_json(welcome.model_dump_json(by_alias=True)))
                case Deliver(_, data):
                    end.delivered.append(data)
                case Resumed():
                    end.resumed.append(effect)
                case Disconnect(connection_id):
                    end.told.append(effect)
                    if connection_id == self.connection:
                        self.cut()
                case Expired() | Discarded() | Skipped():
                    end.told.append(effect)

    def connect(self, shake: bool = True) -> None:
        self.connection = next(_ids)
        self.up.clear()
        self.down.clear()
        self.perform(self.cloud, self.cloud.link.connected(self.connection, self.now))
        self.perform(self.edge, self.edge.link.connected(self.connection, self.now))
        if shake:
            self.flow()

    def cut(self, late: bool = False) -> None:
        gone, self.connection = self.connection, None
        self.up.clear()
        self.down.clear()
        if gone is not None and not late:
            for end in (self.edge, self.cloud):
                self.perform(end, end.link.lost(gone, self.now))

    def step(self, end: End) -> bool:
        """Hand over one frame towards `end`."""
        pipe = self.down if end is self.edge else self.up
        if not pipe or self.connection is None:
            return False
        frame = pipe.popleft()
        match frame:
            case LinkHello():
                effects = end.link.greeted(self.connection, frame, self.now)
            case LinkWelcome():
                effects = end.link.welcomed(self.connection, frame, self.now)
            case bytes():
                effects = end.link.received(self.connection, frame, self.now)
            case _:
                raise AssertionError(frame)
        self.perform(end, effects)
        return True

    def flow(self) -> None:
        while self.step(self.edge) or self.step(self.cloud):
            pass

    def advance(self, seconds: float) -> None:
        end_at = self.now + seconds
        while True:
            due = [d for e in (self.edge, self.cloud) if (d := e.link.deadline) is not None and d <= end_at]
            if not due:
                break
            self.now = max(self.now, min(due))
            for end in (self.edge, self.cloud):
                self.perform(end, end.link.handle_deadline(self.now))
            self.flow()
        self.now = end_at

    def send(self, end: End, data: bytes, delivery: Delivery = Delivery.RELIABLE, **how: object) -> None:
        self.perform(end, end.link.send(data, delivery, now=self.now, **how))  # type: ignore[arg-type]

    def restart_cloud(self) -> None:
        self.cut()
        self.cloud = End(
            Link(f"cloud-{next(_ids)}", initiator=False, limits=self.limits), self.cloud.delivered
        )

    def restart_edge(self) -> None:
        self.cut()
        self.edge = End(Link(f"edge-{next(_ids)}", initiator=True, limits=self.limits), self.edge.delivered)


# ------------------------------------------------------------------------------------------------ wire form


@pytest.mark.parametrize(
    ("offset", "ack"), [(None, None), (1, None), (None, 7), (123, 456), (10**14, 10**14)]
)
def test_members_are_appended_and_taken_off_again(offset: int | None, ack: int | None) -> None:
    data = orjson.dumps({"type": "x", "a": {"b": [1, 2]}, "c": "ä"})
    joined = join(data, offset, ack)
    assert split(joined) == (data, offset, ack)
    decoded = orjson.loads(joined)
    assert decoded.get("linkOffset") == offset
    assert decoded.get("linkAck") == ack


@pytest.mark.parametrize(
    "value",
    [
        {"type": "x", "t": ',"linkOffset":5}'},
        {"type": "x", "t": {"a": 1, "linkOffset": 5}},
        {"type": "x", "t": [{"a": 1, "linkAck": 5}]},
        {"type": "x", "linkOffset": "5"},
        {"type": "x", "linkOffset": -5},
        {"type": "x", "linkOffset": 5.5},
        {"type": "x", "linkOffset": 5, "z": 1},
        {"type": "x", "link": {"epoch": "e"}},
        {},
    ],
)
def test_content_is_never_mistaken_for_the_members(value: object) -> None:
    data = orjson.dumps(value)
    assert split(data) == (data, None, None)


@given(st.binary(max_size=200))
def test_split_survives_any_bytes(data: bytes) -> None:
    rest, offset, ack = split(data)
    assert join(rest, offset, ack) == data


@given(
    st.dictionaries(st.text(max_size=8), st.one_of(st.integers(-5, 5), st.text(max_size=20)), min_size=1),
    st.one_of(st.none(), st.integers(0, 10**15 - 1)),
    st.one_of(st.none(), st.integers(0, 10**15 - 1)),
)
def test_join_and_split_are_inverse(value: dict[str, object], offset: int | None, ack: int | None) -> None:
    data = orjson.dumps(value)
    if split(data)[1:] == (None, None):
        assert split(join(data, offset, ack)) == (data, offset, ack)


# ------------------------------------------------------------------------------------- handshake and replay


def test_first_connection_is_live_and_says_that_there_was_nothing_to_recover() -> None:
    pair = Pair()
    pair.connect()
    for end in (pair.edge, pair.cloud):
        assert end.link.state is LinkState.LIVE
        assert end.resumed[-1].sequenced
        assert not end.resumed[-1].recovered


@pytest.mark.failure("CON-16")
def test_twenty_presses_over_a_lost_connection_arrive_once_and_in_order() -> None:
    pair = Pair()
    pair.connect()
    for n in range(10):
        pair.send(pair.edge, number(n))
    pair.step(pair.cloud)  # one arrives, nine are lost with the connection
    pair.cut()
    for n in range(10, 20):
        pair.send(pair.edge, number(n))
    pair.connect()
    assert pair.cloud.delivered == [number(n) for n in range(20)]
    assert pair.cloud.resumed[-1].recovered
    assert pair.edge.resumed[-1].peer_recovered
    assert pair.edge.resumed[-1].replayed == 9


def test_loss_at_every_frame_of_a_conversation_loses_and_doubles_nothing() -> None:
    for at in range(60):
        pair = Pair()
        pair.connect()
        sent = 0
        steps = 0
        rng = random.Random(at)
        while sent < 20:
            pair.send(pair.edge, number(sent))
            pair.send(pair.cloud, number(sent))
            sent += 1
            for _ in range(rng.randrange(4)):
                pair.step(rng.choice((pair.edge, pair.cloud)))
                steps += 1
                if steps == at:
                    pair.cut()
                    pair.connect(shake=False)
        pair.flow()
        assert pair.cloud.delivered == pair.edge.delivered == [number(n) for n in range(20)], at


def test_message_is_acknowledged_at_once() -> None:
    pair = Pair()
    pair.connect()
    pair.send(pair.edge, number(1))
    pair.flow()
    assert pair.edge.link.backlog == 0
    assert pair.cloud.link.deadline is None
    assert pair.edge.delivered == [], "an acknowledgement is not for the application"


#: Acknowledgements that wait for a frame to ride on.
PATIENT = LinkLimits(ack_delay=0.2)


def test_acknowledgement_with_a_delay_rides_on_traffic_or_goes_alone_in_time() -> None:
    pair = Pair(PATIENT)
    pair.connect()
    pair.send(pair.edge, number(1))
    pair.flow()
    assert pair.edge.link.backlog == 1
    pair.send(pair.cloud, b'{"type":"pong"}', Delivery.LOSSY)
    pair.flow()
    assert pair.edge.link.backlog == 0
    assert pair.edge.delivered == [b'{"type":"pong"}']
    pair.send(pair.edge, number(2))
    pair.flow()
    assert pair.cloud.link.deadline == pytest.approx(pair.now + PATIENT.ack_delay)
    pair.advance(PATIENT.ack_delay)
    assert pair.edge.link.backlog == 0
    assert pair.cloud.link.deadline is None
    assert len(pair.edge.delivered) == 1, "a lone acknowledgement is not for the application"


def test_deadline_may_be_handled_early_and_then_does_nothing() -> None:
    pair = Pair(PATIENT)
    pair.connect()
    pair.send(pair.edge, number(1))
    pair.flow()
    assert pair.cloud.link.handle_deadline(pair.now) == []


def test_replay_is_windowed_so_that_it_never_floods_a_queue() -> None:
    pair = Pair()
    pair.connect()
    pair.cut()
    for n in range(500):
        pair.send(pair.cloud, number(n))
    pair.connect(shake=False)
    pair.step(pair.cloud)  # the hello
    assert len(pair.down) <= 1 + LinkLimits().window_messages
    pair.flow()
    pair.advance(1)
    assert pair.edge.delivered == [number(n) for n in range(500)]
    assert pair.cloud.link.backlog == 0


def test_large_messages_are_windowed_by_bytes_but_one_always_goes() -> None:
    limits = LinkLimits(window_bytes=1000)
    pair = Pair(limits)
    pair.connect()
    big = [orjson.dumps({"type": "n", "n": n, "pad": "x" * 3000}) for n in range(4)]
    for data in big:
        pair.send(pair.cloud, data)
    assert len(pair.down) == 1
    pair.flow()
    pair.advance(2)
    assert pair.edge.delivered == big


# --------------------------------------------------------------------------------------------- identity


@pytest.mark.failure("CON-01")
def test_late_loss_of_an_old_connection_changes_nothing() -> None:
    pair = Pair()
    pair.connect()
    old = pair.connection
    assert old is not None
    pair.cut(late=True)
    pair.connect()
    for end in (pair.edge, pair.cloud):
        before = end.link.state, end.link.connection_id
        assert end.link.lost(old, pair.now) == []
        assert (end.link.state, end.link.connection_id) == before
        assert end.link.received(old, number(1), pair.now) == []
        assert end.link.counters.stale == 2
    pair.send(pair.edge, number(1))
    pair.flow()
    assert pair.cloud.delivered == [number(1)]


def test_newest_connection_wins_and_the_log_moves_with_it() -> None:
    pair = Pair()
    pair.connect()
    pair.send(pair.cloud, number(1))  # into the old connection, which dies unnoticed
    pair.cut(late=True)
    pair.connect()
    assert pair.edge.delivered == [number(1)]


# ------------------------------------------------------------------------------------- forgetting, said so


def test_restarted_cloud_is_told_to_both_and_unacknowledged_messages_come_again() -> None:
    pair = Pair(PATIENT)
    pair.connect()
    pair.send(pair.edge, number(1))
    pair.flow()
    pair.advance(1)  # acknowledged
    pair.send(pair.edge, number(2))
    pair.flow()  # processed, not yet acknowledged
    pair.restart_cloud()
    pair.send(pair.edge, number(3))
    pair.connect()
    assert not pair.edge.resumed[-1].recovered
    assert not pair.edge.resumed[-1].peer_recovered
    assert not pair.cloud.resumed[-1].recovered
    assert pair.cloud.delivered == [number(n) for n in (1, 2, 2, 3)]


def test_restarted_edge_starts_a_new_epoch() -> None:
    pair = Pair()
    pair.connect()
    for n in range(3):
        pair.send(pair.edge, number(n))
    pair.flow()
    pair.restart_edge()
    pair.send(pair.edge, number(3))
    pair.connect()
    assert not pair.cloud.resumed[-1].recovered
    assert pair.cloud.delivered == [number(n) for n in range(4)]


@pytest.mark.failure("LIV-06")
def test_full_log_while_away_drops_the_oldest_and_says_so() -> None:
    limits = LinkLimits(log_messages_max=10)
    pair = Pair(limits)
    pair.connect()
    pair.cut()
    for n in range(25):
        pair.send(pair.edge, number(n))
    assert pair.edge.link.backlog == 10
    assert sum(e.count for e in pair.edge.told if isinstance(e, Discarded)) == 15
    pair.connect()
    assert not pair.cloud.resumed[-1].recovered
    assert not pair.edge.resumed[-1].peer_recovered
    assert pair.cloud.delivered == [number(n) for n in range(15, 25)]


def test_full_log_in_the_other_direction_is_said_as_well() -> None:
    pair = Pair(LinkLimits(log_bytes_max=200))
    pair.connect()
    pair.cut()
    for n in range(50):
        pair.send(pair.cloud, number(n))
    assert pair.cloud.link.backlog_bytes <= 200
    pair.connect()
    assert not pair.edge.resumed[-1].recovered
    assert pair.edge.delivered == [number(n) for n in range(50 - len(pair.edge.delivered), 50)]


@pytest.mark.failure("LIV-06")
def test_peer_that_never_acknowledges_is_cut_as_slow_and_the_log_stays_bounded() -> None:
    pair = Pair(LinkLimits(log_messages_max=20, window_messages=8))
    pair.connect()
    connection = pair.connection
    for n in range(40):
        pair.send(pair.cloud, number(n))  # the edge never reads
        assert pair.cloud.link.backlog <= 20
    assert Disconnect(connection, "slow") in pair.cloud.told  # type: ignore[arg-type]
    assert pair.cloud.link.state is LinkState.DETACHED


def test_gap_is_never_silent() -> None:
    pair = Pair()
    pair.connect()
    for n in range(3):
        pair.send(pair.cloud, number(n))
    del pair.down[1]  # what no TCP does, but a broken proxy may
    connection = pair.connection
    pair.flow()
    assert Disconnect(connection, "gap") in pair.edge.told  # type: ignore[arg-type]
    pair.connect()
    assert pair.edge.delivered == [number(n) for n in range(3)]
    assert pair.edge.resumed[-1].recovered


def test_welcome_from_another_past_goes_on_without_recovery() -> None:
    edge = Link("e", initiator=True)
    edge.send(number(1), Delivery.RELIABLE, now=0.0)
    edge.connected(1, 0.0)
    welcome = LinkWelcome(epoch="c", offset=5, recovered=False, peer_offset=99, peer_recovered=True)
    effects = edge.welcomed(1, welcome, 0.0)
    assert effects[0] == Resumed(1, True, False, False, 0)
    assert [split(e.data) for e in effects if isinstance(e, Transmit)] == [(number(1), 100, None)]


def test_hello_with_an_impossible_offset_is_not_recovered() -> None:
    cloud = Link("c", initiator=False)
    cloud.connected(1, 0.0)
    [welcome, *_] = cloud.greeted(1, LinkHello(epoch="c", offset=7, own_epoch="e", own_offset=0), 0.0)
    assert isinstance(welcome, Welcome)
    assert not welcome.welcome.recovered
    assert welcome.welcome.offset == 0


def test_acknowledgement_of_what_was_never_sent_is_ignored() -> None:
    pair = Pair()
    pair.connect()
    pair.send(pair.cloud, number(1))
    connection = pair.connection
    assert connection is not None
    pair.cloud.link.received(connection, b'{"type":"x","linkAck":77}', pair.now)
    assert pair.cloud.link.backlog == 1


# ------------------------------------------------------------------------------------------ life and latest


@pytest.mark.failure("EDG-03")
def test_press_of_the_outage_is_given_up_and_told_not_delivered_late() -> None:
    pair = Pair()
    pair.connect()
    press = ButtonPress(button_id="main", press_type="short")
    pair.perform(pair.edge, pair.edge.link.post(press, pair.now))  # written, lost with the connection
    pair.cut()
    pair.now += 1
    pair.perform(pair.edge, pair.edge.link.post(press, pair.now))  # never written
    pair.now += 60
    pair.send(pair.edge, number(1))
    pair.connect()
    assert pair.cloud.delivered == [number(1)]
    assert sum(e.count for e in pair.edge.told if isinstance(e, Expired)) == 2
    assert sum(e.count for e in pair.cloud.told if isinstance(e, Skipped)) == 2, (
        "and the peer counts them too"
    )
    assert pair.cloud.resumed[-1].recovered, "expiry is no gap"


def test_press_of_a_short_outage_is_delivered() -> None:
    pair = Pair()
    pair.connect()
    pair.cut()
    pair.perform(pair.edge, pair.edge.link.post(ButtonPress(button_id="main", press_type="short"), pair.now))
    pair.now += 4
    pair.connect()
    assert len(pair.cloud.delivered) == 1


def test_skips_of_a_long_outage_take_one_entry() -> None:
    pair = Pair(LinkLimits(log_messages_max=10))
    pair.connect()
    pair.cut()
    for n in range(1000):
        pair.now += 1
        pair.send(pair.edge, number(n), life=5.0)
    pair.connect()
    pair.advance(1)
    assert pair.cloud.delivered == [number(n) for n in range(995, 1000)]
    assert pair.cloud.resumed[-1].recovered
    assert pair.edge.link.backlog == 0


@pytest.mark.failure("EDG-01")
@pytest.mark.failure("DSP-08")
def test_latest_is_reasserted_once_per_key_and_only_the_newest() -> None:
    pair = Pair()
    pair.connect()
    pair.send(pair.cloud, number(0), Delivery.LATEST, key="mic")
    pair.flow()
    pair.cut()
    for n in range(1, 5):
        pair.send(pair.cloud, number(n), Delivery.LATEST, key="mic")
    pair.send(pair.cloud, number(9), Delivery.LATEST, key="apps")
    pair.send(pair.cloud, number(7))
    pair.edge.delivered.clear()
    pair.connect()
    assert pair.edge.delivered == [number(4), number(9), number(7)]


def test_forgotten_or_outlived_state_is_not_reasserted() -> None:
    pair = Pair()
    pair.connect()
    pair.send(pair.cloud, number(1), Delivery.LATEST, key="a", life=2.0)
    pair.send(pair.cloud, number(2), Delivery.LATEST, key="b")
    pair.flow()
    pair.cloud.link.forget("b")
    pair.cut()
    pair.edge.delivered.clear()
    pair.now += 3
    pair.connect()
    assert pair.edge.delivered == []


def test_latest_slots_are_bounded_in_number_and_bytes() -> None:
    link = Link("e", initiator=True, limits=LinkLimits(latest_keys_max=5, latest_bytes_max=1000))
    for n in range(50):
        link.send(number(n), Delivery.LATEST, now=0.0, key=f"k{n}")
    link.send(b"x" * 5000, Delivery.LATEST, now=0.0, key="big")
    effects = link.connected(1, 0.0)
    assert [e.key for e in effects if isinstance(e, Transmit)] == ["big"]


@pytest.mark.failure("EDG-03")
def test_lossy_is_dropped_and_counted_while_away_and_never_delivered_old() -> None:
    pair = Pair()
    for n in range(5):
        pair.send(pair.edge, b"\0\0", Delivery.LOSSY, binary=True)
        pair.send(pair.edge, number(n), Delivery.LOSSY)
    assert pair.edge.link.counters.lossy_dropped == 10
    pair.connect()
    assert pair.cloud.delivered == []
    pair.send(pair.edge, b"\1\1", Delivery.LOSSY, binary=True)
    assert pair.up.pop() == b"\1\1", "binary frames carry no members"


def test_every_message_class_has_a_usable_key_and_life() -> None:
    for registry in (GLASSES_TO_CLOUD, CLOUD_TO_GLASSES):
        for cls in registry.values():
            assert cls.life is None or cls.life > 0
            assert cls.life is None or cls.delivery is Delivery.RELIABLE, cls
    event = DisplayEvent(package_name="p", view="dashboard", layout={}, display_id=None)
    assert event.latest_key() == "display_event:dashboard"


# -------------------------------------------------------------------------------- peers without the extension

PING = b'{"type":"ping"}'


def test_mentra_phone_sees_no_member_and_state_waits_for_nothing() -> None:
    link = Link("c", initiator=False)
    assert link.connected(1, 0.0) == []
    assert link.send(number(1), Delivery.LATEST, now=0.0, key="k") == [
        Transmit(1, number(1), Delivery.LATEST, "k")
    ]
    assert link.send(PING, Delivery.LOSSY, now=0.0) == [Transmit(1, PING, Delivery.LOSSY)]
    assert link.send(number(2), Delivery.RELIABLE, now=0.0) == [], "until it is known who listens"
    assert link.received(1, PING, 0.0) == [
        Resumed(1, False, False, False, 0),
        Transmit(1, number(2), Delivery.RELIABLE),
        Deliver(1, PING),
    ]
    assert link.send(number(3), Delivery.RELIABLE, now=0.0) == [Transmit(1, number(3), Delivery.RELIABLE)]
    assert link.backlog == 0
    assert link.deadline is None


def test_mentra_phone_gets_state_and_fresh_waiting_messages_after_a_reconnect() -> None:
    link = Link("c", initiator=False)
    link.connected(1, 0.0)
    link.received(1, PING, 0.0)
    link.send(number(1), Delivery.LATEST, now=0.0, key="mic")
    link.lost(1, 1.0)
    link.send(number(2), Delivery.RELIABLE, now=1.0, life=5.0)
    link.send(number(3), Delivery.RELIABLE, now=1.0, life=60.0)
    assert link.connected(2, 20.0) == [Transmit(2, number(1), Delivery.LATEST, "mic")]
    effects = link.received(2, PING, 20.0)
    assert [e.data for e in effects if isinstance(e, Transmit)] == [number(3)]
    assert Expired(1) in effects


def test_burst_that_waited_for_a_plain_peer_is_cut_to_the_window_and_told() -> None:
    link = Link("c", initiator=False, limits=LinkLimits(window_messages=4))
    for n in range(10):
        link.send(number(n), Delivery.RELIABLE, now=0.0)
    link.connected(1, 0.0)
    effects = link.received(1, PING, 0.0)
    assert [e.data for e in effects if isinstance(e, Transmit)] == [number(n) for n in range(6, 10)]
    assert Discarded(6) in effects


def test_phone_that_replaces_our_edge_is_known_by_its_first_frame() -> None:
    pair = Pair()
    pair.connect()
    pair.send(pair.cloud, number(1))  # written: the edge may have processed it
    pair.cut()
    pair.send(pair.cloud, number(2))  # never written
    pair.announces = False
    pair.connect()
    pair.send(pair.edge, PING, Delivery.LOSSY)
    pair.flow()
    assert pair.cloud.link.state is LinkState.LIVE
    assert not pair.cloud.link.sequenced
    assert pair.edge.delivered == [number(2)]
    assert Discarded(1) in pair.cloud.told


def test_edge_at_a_foreign_cloud_goes_plain_when_its_announcement_is_not_understood() -> None:
    link = Link("e", initiator=True)
    link.send(number(1), Delivery.RELIABLE, now=0.0)
    link.connected(1, 0.0)
    assert link.refused(1, 0.1) == [
        Resumed(1, False, False, False, 0),
        Transmit(1, number(1), Delivery.RELIABLE),
    ]


def test_edge_at_a_foreign_cloud_that_never_answers_goes_plain_after_the_handshake_time() -> None:
    link = Link("e", initiator=True)
    link.connected(1, 0.0)
    link.received(1, PING, 1.0)
    assert link.handle_deadline(11.9) == []
    assert link.handle_deadline(12.0) == [Resumed(1, False, False, False, 0)]


def test_silent_path_is_not_taken_for_a_foreign_cloud() -> None:
    link = Link("e", initiator=True)
    link.send(number(1), Delivery.RELIABLE, now=0.0)
    link.connected(1, 0.0)
    assert link.handle_deadline(12.0) == [Disconnect(1, "handshake")]
    assert link.backlog == 1


def test_answer_after_the_handshake_time_still_makes_the_link() -> None:
    pair = Pair()
    pair.connect(shake=False)
    pair.send(pair.cloud, PING, Delivery.LOSSY)
    pair.send(pair.edge, number(1))
    pair.step(pair.edge)
    pair.step(pair.cloud)  # the hello; the answer is on its way
    for n in range(2, 5):
        pair.send(pair.cloud, number(n))
    held, pair.down = pair.down, deque()
    pair.advance(LinkLimits().handshake)
    assert pair.edge.link.state is LinkState.LIVE
    assert not pair.edge.link.sequenced
    pair.down = held
    pair.flow()
    assert pair.edge.link.sequenced
    pair.send(pair.edge, number(5))
    pair.flow()
    assert pair.cloud.delivered == [number(1), number(5)]
    assert pair.edge.delivered == [PING, *(number(n) for n in range(2, 5))]


# ------------------------------------------------------------------------------------------------- the end


def test_nothing_happens_after_the_end() -> None:
    pair = Pair()
    pair.connect()
    connection = pair.connection
    assert connection is not None
    for end in (pair.edge, pair.cloud):
        link = end.link
        assert link.close(pair.now) == []
        assert link.close(pair.now) == []
        assert link.connected(next(_ids), pair.now) == []
        assert link.received(connection, number(1), pair.now) == []
        assert link.send(number(1), Delivery.RELIABLE, now=pair.now) == []
        assert link.lost(connection, pair.now) == []
        assert link.deadline is None
        assert link.state is LinkState.CLOSED


def test_unlisted_transition_raises_and_changes_nothing() -> None:
    for state, row in TRANSITIONS.items():
        for to in set(LinkState) - set(row):
            link = Link("e", initiator=True)
            link._state = state
            with pytest.raises(InvalidTransition):
                link._move(to)
            assert link.state is state


# --------------------------------------------------------------------------------------------- random walks

_ACTIONS = st.lists(
    st.sampled_from(
        ["up", "up", "down", "down", "deliver-up", "deliver-down", "deliver-up", "deliver-down", "flow", "cut",
         "late-cut", "connect", "connect", "time", "long"]
    ),
    max_size=120,
)  # fmt: skip


@given(_ACTIONS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_interleaving_of_losses_keeps_order_and_loses_nothing(actions: list[str], small: bool) -> None:
    """I1: both ends live and the log holds, so everything arrives once, in order."""
    pair = Pair(LinkLimits(window_messages=3, ack_every=2, ack_delay=0.2) if small else LinkLimits())
    sent: dict[str, int] = {"up": 0, "down": 0}
    for action in actions:
        match action:
            case "up" | "down":
                end = pair.edge if action == "up" else pair.cloud
                pair.send(end, number(sent[action]))
                sent[action] += 1
            case "deliver-up":
                pair.step(pair.cloud)
            case "deliver-down":
                pair.step(pair.edge)
            case "flow":
                pair.flow()
            case "cut":
                pair.cut()
            case "late-cut":
                pair.cut(late=True)
            case "connect":
                pair.connect(shake=False)
            case "time":
                pair.advance(0.1)
            case "long":
                pair.now += 1.0
                for end in (pair.edge, pair.cloud):
                    pair.perform(end, end.link.handle_deadline(pair.now))
        for end, other in ((pair.edge, "down"), (pair.cloud, "up")):
            assert end.delivered == [number(n) for n in range(len(end.delivered))]
            assert len(end.delivered) <= sent[other]
    pair.connect()
    pair.advance(2.0)
    assert pair.cloud.delivered == [number(n) for n in range(sent["up"])]
    assert pair.edge.delivered == [number(n) for n in range(sent["down"])]
    assert pair.edge.link.backlog == pair.cloud.link.backlog == 0


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_crashes_of_either_end_never_lose_silently(seed: int) -> None:
    """With restarts: order holds inside an epoch, a loss is preceded by a `Resumed` that says recovered=False, and
    what is repeated was unacknowledged."""
    rng = random.Random(seed)
    pair = Pair(
        LinkLimits(log_messages_max=8, window_messages=4, ack_every=2, ack_delay=rng.choice([0.0, 0.2]))
    )
    sent = 0
    crashes = 0
    for _ in range(200):
        match rng.randrange(9):
            case 0 | 1 | 2:
                pair.send(pair.edge, number(sent))
                sent += 1
            case 3 | 4:
                pair.step(pair.cloud)
            case 5:
                pair.step(pair.edge)
            case 6:
                pair.connect(shake=rng.random() < 0.5)
            case 7:
                pair.advance(rng.random())
            case 8:
                if rng.random() < 0.2:
                    crashes += 1
                    pair.restart_cloud()
                else:
                    pair.cut(late=rng.random() < 0.3)
        assert pair.edge.link.backlog <= 8
    pair.connect()
    pair.advance(5.0)
    numbers = [orjson.loads(data)["n"] for data in pair.cloud.delivered]
    discarded = sum(e.count for e in pair.edge.told if isinstance(e, Discarded))
    missing = set(range(sent)) - set(numbers)
    assert len(missing) <= discarded
    if not crashes:
        assert numbers == sorted(set(numbers))
    if missing:
        assert any(not r.peer_recovered for r in pair.edge.resumed)


@pytest.mark.failure("CON-03")
@pytest.mark.failure("PRO-05")
def test_what_is_only_kept_for_later_is_not_acknowledged_and_survives_the_process_that_keeps_it() -> None:
    pair = Pair()
    pair.cloud.link.holding = True  # the user is being read
    pair.connect()
    for n in range(3):
        pair.perform(pair.edge, pair.edge.link.send(number(n), Delivery.RELIABLE, now=pair.now))
    pair.flow()
    assert len(pair.cloud.delivered) == 3
    assert pair.edge.link.backlog == 3
    pair.cut()
    pair.connect()
    assert pair.edge.link.backlog == 3, "the welcome acknowledges nothing of it either"
    assert len(pair.cloud.delivered) == 3, "and it is not handed over twice"
    pair.cut()
    pair.cloud = End(Link("cloud-2", initiator=False))  # killed
    pair.connect()
    assert [orjson.loads(d)["n"] for d in pair.cloud.delivered] == [0, 1, 2]
    assert pair.edge.link.backlog == 0


def test_release_acknowledges_what_was_held_once() -> None:
    pair = Pair()
    pair.cloud.link.holding = True
    pair.connect()
    pair.perform(pair.edge, pair.edge.link.send(number(1), Delivery.RELIABLE, now=pair.now))
    pair.flow()
    pair.cut()
    pair.connect()
    assert pair.edge.link.backlog == 1
    effects = pair.cloud.link.release(pair.now)
    assert len(effects) == 1
    pair.perform(pair.cloud, effects)
    pair.flow()
    assert pair.edge.link.backlog == 0
    assert pair.cloud.link.release(pair.now) == []


def test_a_held_end_that_another_process_takes_over_gets_what_was_held_again() -> None:
    pair = Pair()
    pair.cloud.link.holding = True
    pair.connect()
    pair.perform(pair.edge, pair.edge.link.send(number(1), Delivery.RELIABLE, now=pair.now))
    pair.flow()
    state = orjson.loads(orjson.dumps(pair.cloud.link.export(pair.now)))
    pair.cut()
    pair.cloud = End(Link.restored(state, pair.now, initiator=False))
    pair.connect()
    assert pair.cloud.delivered == [number(1)]
