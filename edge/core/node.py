"""Node: the whole edge core for one wearer, glasses and uplink, behind one small seam.

Rules: pure. Whatever stands around it (the daemon with bleak and a socket, or a simulation in virtual time) calls the
inputs below with a monotonic `now` and performs the returned effects in order, without waiting in between:

    radio in    sighted · link_up · link_failed · link_lost · written · notified
    radio out   Scan · Connect · Disconnect · Write
    cloud in    opened · failed · closed · received            (text frames; the cloud sends an edge no binary)
    cloud out   Dial · Hangup · SendText · SendAudio
    sound       Decode out, decoded in                         (LC3 needs a codec, and a codec is no pure thing)
    photos      Upload out, uploaded in
    the rest    start · stop · wall_clock · notify · network_changed · handle_deadline in; Remember · Notice out

Every connection has the id it was asked for with; reports about older ones are ignored. `deadline` is when
`handle_deadline` wants to be called next; called late by more than `wake_gap` it takes that as a sleep of the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from edge.core.arm import ArmState, Connect, Disconnect, Write
from edge.core.bridge import Bridge, BridgeEffect, BridgeTiming, Post, Upload
from edge.core.glasses import (
    Decode,
    Glasses,
    GlassesEffect,
    GlassesTiming,
    Note,
    Notice,
    Remember,
    Scan,
    Target,
)
from edge.core.uplink import (
    Dial,
    Greet,
    Hangup,
    Offline,
    Online,
    Probe,
    Uplink,
    UplinkEffect,
    UplinkState,
    UplinkTiming,
)
from edge.profiles.base import Advert, Arm, Clock, Profile
from wire import codec
from wire import link as resumable
from wire.errors import GlassesFault, ProtocolError
from wire.messages.base import Delivery
from wire.messages.cloud_to_glasses import (
    CLOUD_TO_GLASSES,
    AuthError,
    ConnectionAck,
    MoveToAnotherNode,
    PingToGlasses,
    PongToGlasses,
)
from wire.messages.glasses_to_cloud import ConnectionInit, Ping, Pong


@dataclass(frozen=True, slots=True)
class NodeTiming:
    """All timings of one edge. Seconds."""

    glasses: GlassesTiming = field(default_factory=GlassesTiming)
    uplink: UplinkTiming = field(default_factory=UplinkTiming)
    bridge: BridgeTiming = field(default_factory=BridgeTiming)
    link: resumable.LinkLimits = field(default_factory=resumable.LinkLimits)
    #: A timer that is this late means that the process slept (failure catalogue EDG-04).
    wake_gap: float = 10.0
    #: Sound older than this is not sent: captions must not lag (EDG-03).
    audio_life: float = 1.0
    samples_max: int = 256


@dataclass(frozen=True, slots=True)
class SendText:
    """Write a text frame. `delivery` and `key` say what a full queue may do with it."""

    conn_id: int
    data: bytes
    delivery: Delivery
    key: str | None


@dataclass(frozen=True, slots=True)
class SendAudio:
    """Write a binary frame: PCM16 little-endian, mono, 16 kHz. Lossy: the oldest goes when the queue is full."""

    conn_id: int
    pcm: bytes


NodeEffect: TypeAlias = (
    Scan
    | Connect
    | Disconnect
    | Write
    | Decode
    | Remember
    | Upload
    | Notice
    | Dial
    | Hangup
    | SendText
    | SendAudio
)


class Node:
    """One wearer's edge. `jitter()` gives numbers in [0, 1); `link_epoch` is a fresh random name per process."""

    def __init__(
        self,
        profile: Profile,
        target: Target,
        timing: NodeTiming,
        *,
        jitter: Callable[[], float],
        link_epoch: str,
        simulated: bool = False,
    ) -> None:
        self.timing = timing
        self.glasses = Glasses(profile, target, timing.glasses, jitter)
        self.uplink = Uplink(timing.uplink, jitter)
        self.bridge = Bridge(self.glasses, timing.bridge, simulated=simulated)
        self.link = resumable.Link(link_epoch, initiator=True, limits=timing.link)
        self.counters = {"bad_frames": 0, "audio_frames": 0, "audio_stale": 0, "audio_offline": 0, "wakes": 0}
        self.audio_ms: deque[float] = deque(maxlen=timing.samples_max)  # notification -> uplink frame
        self.rtt_ms: float | None = None
        self._audio_told = 0  # audio frames at the last ping that spoke of them
        self._acks = 0  # connection_acks on the current connection
        self._clock_at: float | None = None
        self._clock: tuple[float, float] | None = None

    # ------------------------------------------------------------------------------------------------- lifetime

    def start(self, now: float) -> list[NodeEffect]:
        """Want glasses and cloud."""
        effects = self._bridge(self.bridge.start(now), now)
        effects += self._glasses(self.glasses.start(now), now)
        return effects + self._uplink(self.uplink.start(now), now)

    def rest(self, now: float) -> list[NodeEffect]:
        """Blank the lens before `stop`; `rested` says when that is done."""
        return self._bridge(self.bridge.rest(now), now)

    @property
    def rested(self) -> bool:
        """Whether every arm that answers has taken the newest screen."""
        arms = (arm for arm, link in self.glasses.arms.items() if link.state is ArmState.READY)
        return all(self.glasses.shown_on(arm) == self.glasses.display_version for arm in arms)

    def stop(self, now: float) -> list[NodeEffect]:
        """Let go of both, in order."""
        effects = self._glasses(self.glasses.stop(now), now)
        return effects + self._uplink(self.uplink.stop(1001, "edge stops", now), now)

    def wall_clock(self, epoch_offset: float, utc_offset: float, now: float) -> list[NodeEffect]:
        """Epoch seconds minus monotonic seconds, and local time minus UTC; at the start and when they change."""
        self._clock = (epoch_offset, utc_offset)
        self._clock_at = now + self.glasses.profile.pace.clock
        return self._bridge(self.bridge.wall_clock(epoch_offset, utc_offset, now), now)

    def notify(self, app_id: str, app_name: str, title: str, text: str, now: float) -> list[NodeEffect]:
        """A notification arrived on this host, for the cloud and for glasses that show them by themselves."""
        return self._bridge(self.bridge.notify(app_id, app_name, title, text, now), now)

    def network_changed(self, now: float) -> list[NodeEffect]:
        """The network came up or the token changed: try at once instead of waiting."""
        return self._uplink(self.uplink.retry_now(now), now)

    # ---------------------------------------------------------------------------------------------------- radio

    def sighted(self, advert: Advert, now: float) -> list[NodeEffect]:
        return self._glasses(self.glasses.sighted(advert, now), now)

    def link_up(self, arm: Arm, conn_id: int, payload_max: int, now: float) -> list[NodeEffect]:
        """Connected, services found, subscribed; `payload_max` bytes fit into one write."""
        return self._glasses(self.glasses.link_up(arm, conn_id, payload_max, now), now)

    def link_failed(self, arm: Arm, conn_id: int, fault: GlassesFault, now: float) -> list[NodeEffect]:
        return self._glasses(self.glasses.link_failed(arm, conn_id, fault, now), now)

    def link_lost(self, arm: Arm, conn_id: int, fault: GlassesFault, now: float) -> list[NodeEffect]:
        return self._glasses(self.glasses.link_lost(arm, conn_id, fault, now), now)

    def written(
        self, arm: Arm, conn_id: int, write_id: int, fault: GlassesFault | None, now: float
    ) -> list[NodeEffect]:
        """The stack is done with a `Write`; `fault` None: it confirmed."""
        return self._glasses(self.glasses.written(arm, conn_id, write_id, fault, now), now)

    def notified(self, arm: Arm, conn_id: int, char: str, data: bytes, now: float) -> list[NodeEffect]:
        return self._glasses(self.glasses.notified(arm, conn_id, char, data, now), now)

    def decoded(self, pcm: bytes, captured: float, now: float) -> list[NodeEffect]:
        """Sound of one `Decode`, which was asked for at `captured`."""
        if now - captured > self.timing.audio_life:
            self.counters["audio_stale"] += 1
            return []
        if self.uplink.state is not UplinkState.ONLINE:
            # Sound follows the announcement of who sends it (failure catalogue EDG-01); none is kept (EDG-03).
            self.counters["audio_offline"] += 1
            return []
        self.audio_ms.append((now - captured) * 1000)
        return self._link(self.link.send(pcm, Delivery.LOSSY, now=now, binary=True), now)

    def uploaded(self, request_id: str, ok: bool, reason: str, now: float) -> list[NodeEffect]:
        return self._bridge(self.bridge.uploaded(request_id, ok, reason, now), now)

    # ---------------------------------------------------------------------------------------------------- cloud

    def opened(self, conn_id: int, now: float) -> list[NodeEffect]:
        """The WebSocket is open."""
        return self._uplink(self.uplink.opened(conn_id, now), now)

    def failed(
        self, conn_id: int, reason: str, status: int | None, retry_after: float | None, now: float
    ) -> list[NodeEffect]:
        """The attempt to connect came to nothing; `status` is the HTTP status of a refused upgrade."""
        return self._uplink(self.uplink.failed(conn_id, reason, status, retry_after, now), now)

    def closed(self, conn_id: int, code: int, reason: str, now: float) -> list[NodeEffect]:
        """The WebSocket is closed; 1006 if nobody said goodbye."""
        return self._uplink(self.uplink.closed(conn_id, code, reason, now), now)

    def received(self, conn_id: int, data: bytes, now: float) -> list[NodeEffect]:
        """A text frame from the cloud. A bad one is counted; it never disturbs the good ones."""
        if not self.uplink.heard(conn_id, now):
            return []
        return self._link(self.link.received(conn_id, data, now), now)

    # ----------------------------------------------------------------------------------------------------- time

    @property
    def deadline(self) -> float | None:
        times = (
            self.glasses.deadline,
            self.uplink.deadline,
            self.bridge.deadline,
            self.link.deadline,
            self._clock_at,
        )
        return min((at for at in times if at is not None), default=None)

    def handle_deadline(self, now: float) -> list[NodeEffect]:
        at = self.deadline
        if at is None or now < at:
            return []
        effects: list[NodeEffect] = []
        if now - at > self.timing.wake_gap:
            self.counters["wakes"] += 1
            effects += self._glasses(self.glasses.woke(now), now)
            effects += self._uplink(self.uplink.woke(now), now)
        if self.glasses.deadline is not None and now >= self.glasses.deadline:
            effects += self._glasses(self.glasses.handle_deadline(now), now)
        effects += self._uplink(self.uplink.handle_deadline(now), now)
        if self.link.deadline is not None and now >= self.link.deadline:
            effects += self._link(self.link.handle_deadline(now), now)
        if self.bridge.deadline is not None and now >= self.bridge.deadline:
            effects += self._bridge(self.bridge.handle_deadline(now), now)
        if self._clock_at is not None and now >= self._clock_at and self._clock is not None:
            self._clock_at = now + self.glasses.profile.pace.clock
            epoch_offset, utc_offset = self._clock
            effects += self._glasses(self.glasses.clock(Clock(now + epoch_offset, utc_offset), now), now)
        return effects

    # --------------------------------------------------------------------------------------------------- routing

    def _glasses(self, effects: Sequence[GlassesEffect], now: float) -> list[NodeEffect]:
        return self._bridge(self.bridge.glasses_did(effects, now), now)

    def _bridge(self, effects: Sequence[BridgeEffect], now: float) -> list[NodeEffect]:
        out: list[NodeEffect] = []
        for effect in effects:
            if isinstance(effect, Post):
                out += self._link(self.link.post(effect.message, now), now)
            else:
                out.append(effect)
        return out

    def _uplink(self, effects: Sequence[UplinkEffect], now: float) -> list[NodeEffect]:
        out: list[NodeEffect] = []
        for effect in effects:
            match effect:
                case Dial() | Hangup():
                    out.append(effect)
                case Greet(conn_id):
                    self._acks = 0
                    self.bridge.cloud_clock = None
                    out += self._link(self.link.connected(conn_id, now), now)
                case Probe():
                    ping = codec.encode(self._ping(now))
                    out += self._link(self.link.send(ping, Delivery.LOSSY, now=now), now)
                case Online():
                    out.append(Notice(Note.UPLINK_READY, "cloud", ""))
                    out += self._bridge(self.bridge.acknowledged(now), now)
                case Offline(reason, lasting, was_online):
                    out += self._offline(reason, lasting, was_online, now)
        return out

    def _ping(self, now: float) -> Ping:
        """A question, and with it what only this end can measure: the offset of the clocks, the age of sound."""
        ping = Ping(sent_ms=round(now * 1000, 3))
        clock = self.uplink.clock(now)
        if clock is not None and self._clock is not None:
            wall_offset = self._clock[0]
            ping.clock_ms = round((now + wall_offset) * 1000, 3)
            ping.offset_ms = round((clock.offset - wall_offset) * 1000, 3)
            ping.error_ms = round(clock.error * 1000, 3)
            ping.rtt_ms = round(clock.rtt * 1000, 3)
        fresh = self.counters["audio_frames"] - self._audio_told
        if fresh and self.audio_ms:
            self._audio_told += fresh
            newest = sorted(list(self.audio_ms)[-fresh:])
            ping.audio_ms = round(newest[len(newest) // 2], 3)
        return ping

    def _offline(self, reason: str, lasting: bool, was_online: bool, now: float) -> list[NodeEffect]:
        current = self.link.connection_id
        effects = self._link(self.link.lost(current, now), now) if current is not None else []
        note = Note.UPLINK_LOST
        if lasting:
            note = Note.UPLINK_REPLACED if self.uplink.state is UplinkState.STOPPED else Note.UPLINK_REFUSED
        effects.append(Notice(note, "cloud", reason))
        return effects + self._bridge(self.bridge.cloud_lost(now), now)

    def _link(self, effects: Sequence[resumable.LinkEffect], now: float) -> list[NodeEffect]:
        out: list[NodeEffect] = []
        for effect in effects:
            match effect:
                case resumable.Transmit(conn_id, data, delivery, key, binary):
                    self.uplink.spoke(now)
                    if binary:
                        self.counters["audio_frames"] += 1
                        out.append(SendAudio(conn_id, data))
                    else:
                        out.append(SendText(conn_id, data, delivery, key))
                case resumable.Announce(conn_id, hello):
                    # The token travels in the upgrade's header only.
                    init = ConnectionInit(link=hello, core_token=None, user_id=None)
                    out.append(SendText(conn_id, codec.encode(init), Delivery.RELIABLE, None))
                case resumable.Deliver(conn_id, data):
                    out += self._deliver(conn_id, data, now)
                case resumable.Disconnect(conn_id, reason):
                    out.append(Hangup(conn_id, 1013, reason))
                    out += self._uplink(self.uplink.closed(conn_id, 1013, reason, now), now)
                case resumable.Expired(count) | resumable.Discarded(count):
                    out.append(Notice(Note.WARNING, "cloud", f"{count} events were too old to be sent"))
                case resumable.Resumed() | resumable.Welcome() | resumable.Skipped():
                    pass  # only the cloud welcomes; state is announced after the acknowledgement in any case
        return out

    def _deliver(self, conn_id: int, data: bytes, now: float) -> list[NodeEffect]:
        try:
            message = codec.decode(CLOUD_TO_GLASSES, data).message
        except ProtocolError:
            self.counters["bad_frames"] += 1
            return []
        match message:
            case None:
                return []  # newer than we are
            case ConnectionAck(link=welcome):
                self._acks += 1
                out: list[NodeEffect] = []
                if welcome is not None:
                    out += self._link(self.link.welcomed(conn_id, welcome, now), now)
                elif self._acks > 1:
                    # One comes at open, the second answers our announcement: this cloud does not know the extension.
                    out += self._link(self.link.refused(conn_id, now), now)
                return out + self._uplink(self.uplink.acknowledged(conn_id, now), now)
            case AuthError():
                return self._uplink(self.uplink.refused(conn_id, now), now)
            case MoveToAnotherNode():
                return self._uplink(self.uplink.moved(conn_id, now), now)
            case PingToGlasses(sent_ms=sent_ms):
                pong = Pong(sent_ms=sent_ms)
                return self._link(self.link.send(codec.encode(pong), Delivery.LOSSY, now=now), now)
            case PongToGlasses(sent_ms=sent_ms, clock_ms=clock_ms):
                if sent_ms is None or not 0 <= now * 1000 - sent_ms < 60_000:
                    return []
                self.rtt_ms = now * 1000 - sent_ms
                clock = None if clock_ms is None else clock_ms / 1000
                effects = self._uplink(self.uplink.ponged(conn_id, sent_ms / 1000, clock, now), now)
                estimate = self.uplink.clock(now)
                self.bridge.cloud_clock = None if estimate is None else estimate.offset
                return effects
            case _:
                return self._bridge(self.bridge.cloud_said(message, now), now)

    # ---------------------------------------------------------------------------------------------------- status

    def status(self, now: float) -> dict[str, Any]:
        """What `glassbridge edge status` shows. No contents, no token."""
        last = self.bridge.last_display
        return {
            "glasses": self.glasses.status(now),
            "cloud": {
                "state": self.uplink.state.value,
                "reason": self.uplink.reason or None,
                "for_s": round(now - self.uplink.since, 1),
                "attempts": self.uplink.attempts,
                "rtt_ms": round(self.rtt_ms, 1) if self.rtt_ms is not None else None,
                **self._clock_status(now),
                "link": self.link.state.value,
                "backlog": self.link.backlog,
            },
            "display": {
                "last_shown_s": round(now - last, 1) if last is not None else None,
                "received_to_lens_ms": _spread(self.bridge.display_ms),
            },
            "audio": {
                "microphone": self.glasses.mic.value,
                "asked_by_cloud": self.bridge.mic_asked_by_cloud,
                "notification_to_uplink_ms": _spread(self.audio_ms),
                "frames": self.counters["audio_frames"],
                "stale": self.counters["audio_stale"],
            },
            "counters": {
                "bad_frames": self.counters["bad_frames"],
                "wakes": self.counters["wakes"],
                "events_expired": self.link.counters.expired,
                "events_discarded": self.link.counters.discarded,
                "audio_dropped": self.counters["audio_offline"],
            },
        }

    def _clock_status(self, now: float) -> dict[str, float | None]:
        """The cloud's clock minus this machine's, and the most that this can be wrong by."""
        clock = self.uplink.clock(now)
        if clock is None or self._clock is None:
            return {"clock_offset_ms": None, "clock_error_ms": None}
        return {
            "clock_offset_ms": round((clock.offset - self._clock[0]) * 1000, 1),
            "clock_error_ms": round(clock.error * 1000, 1),
        }


def _spread(samples: Sequence[float]) -> dict[str, float] | None:
    """Median, 99th percentile and count of the newest samples."""
    if not samples:
        return None
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {
        "p50": round(ordered[last // 2], 2),
        "p99": round(ordered[round(last * 0.99)], 2),
        "n": float(len(ordered)),
    }
