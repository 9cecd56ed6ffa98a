"""The way out to the glasses client of a session: one connection, one link, and what is written to them.

Rules: everything for the glasses goes through here. State is not queued for an absent client, it is said anew when they
return; reliable messages wait in the link.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from cloud.core.clock import WallClock
from cloud.core.effects import CloseGlasses, Effect, Record, SendToGlasses
from wire import link as links
from wire.codec import encode
from wire.errors import CloseCode
from wire.link import Link
from wire.messages.base import Delivery, Message


class GlassesPort:
    """`connection_id` is the live connection; the session sets it."""

    __slots__ = ("clock", "connection_id", "link")

    def __init__(self, link: Link, clock: WallClock) -> None:
        self.clock = clock
        self.link = link
        self.connection_id: int | None = None

    def handshake(self, message: Message, now: float) -> list[Effect]:
        """Greetings, pongs and errors belong to the connection, not to the stream that outlives it."""
        if self.connection_id is None:
            return []
        message.timestamp = self.clock.iso(now)
        return [SendToGlasses(self.connection_id, encode(message), Delivery.RELIABLE)]

    def post(self, message: Message, now: float) -> list[Effect]:
        message.timestamp = self.clock.iso(now)
        if self.connection_id is None and message.delivery is not Delivery.RELIABLE:
            return []  # state is said anew when they return
        return self.sent(self.link.post(message, now))

    def state_is(self, key: str, data: bytes) -> SendToGlasses | None:
        """Say what is so now; kept for the next connection. None: there is none at the moment."""
        frame = self.link.state_is(key, data)
        return None if frame is None else SendToGlasses(frame.connection_id, frame.data, frame.delivery, key)

    def sent(self, effects: Iterable[links.LinkEffect]) -> list[Effect]:
        """What the link asks for when nothing has arrived: only an arriving frame is delivered or welcomed."""
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case links.Transmit():
                    out.append(SendToGlasses(effect.connection_id, effect.data, effect.delivery, effect.key))
                case links.Resumed():
                    detail = {
                        "sequenced": effect.sequenced,
                        "recovered": effect.recovered,
                        "peer_recovered": effect.peer_recovered,
                        "replayed": effect.replayed,
                    }
                    out.append(Record("link_resumed", detail))
                case links.Expired(count) | links.Skipped(count):
                    out.append(Record("link_gave_up", {"count": count, "why": "too_old"}))
                case links.Discarded(count):
                    out.append(Record("link_gave_up", {"count": count, "why": "log_full"}))
                case links.Disconnect(connection_id, reason):
                    out.append(CloseGlasses(connection_id, CloseCode.TRY_AGAIN_LATER, reason))
                case links.Announce() | links.Deliver() | links.Welcome():
                    raise AssertionError(f"{type(effect).__name__} without a frame of the client")
                case _:
                    assert_never(effect)
        return out
