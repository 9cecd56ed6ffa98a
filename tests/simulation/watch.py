"""Eyes of the simulation on one end of a link: what was sent and delivered reliably, to hold invariant I1.

Rules: a watched link behaves as any other. Delivery is compared with sending as a subsequence: in order, none twice;
what is missing must have been declared (expired, discarded) or still be in the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wire.link import Deliver, Link, LinkEffect, LinkLimits, LinkState, split
from wire.messages import Delivery


@dataclass(eq=False)
class Sent:
    """Reliable messages of one end in the order in which they were given to the link."""

    name: str
    messages: list[bytes] = field(default_factory=list)
    receivers: list[Received] = field(default_factory=list)


@dataclass(eq=False)
class Received:
    """Reliable messages that one end delivered, all from one incarnation of the other end."""

    source: Sent
    position: int = 0  # messages of the source that are accounted for
    count: int = 0
    wrong: str | None = None

    def __post_init__(self) -> None:
        self.source.receivers.append(self)

    def take(self, data: bytes) -> None:
        try:
            found = self.source.messages.index(data, self.position)
        except ValueError:
            kind = "twice or out of order" if data in self.source.messages else "never sent"
            self.wrong = self.wrong or f"{self.source.name}: delivered {kind}: {data[:120]!r}"
            return
        self.position = found + 1
        self.count += 1


class WatchedLink(Link):
    """A link that remembers. `peers` maps an epoch to what that end sent."""

    def __init__(
        self, epoch: str, *, initiator: bool, limits: LinkLimits | None = None, peers: dict[str, Sent]
    ) -> None:
        super().__init__(epoch, initiator=initiator, limits=limits)
        self.peers = peers
        self.sent = Sent(epoch)
        peers[epoch] = self.sent
        self.received_from: dict[str, Received] = {}
        self.was_plain = False

    def send(
        self,
        data: bytes,
        delivery: Delivery,
        *,
        now: float,
        key: str | None = None,
        life: float | None = None,
        binary: bool = False,
    ) -> list[LinkEffect]:
        if delivery is Delivery.RELIABLE:
            self.was_plain |= self.state is LinkState.LIVE and not self.sequenced
            self.sent.messages.append(data)
        return super().send(data, delivery, now=now, key=key, life=life, binary=binary)

    def received(self, connection_id: int, data: bytes, now: float) -> list[LinkEffect]:
        sequenced = split(data)[1] is not None and self.sequenced
        effects = super().received(connection_id, data, now)
        if sequenced:
            for effect in effects:
                if isinstance(effect, Deliver):
                    epoch = self._peer.epoch or ""
                    received = self.received_from.setdefault(epoch, Received(self.peers[epoch]))
                    received.take(effect.data)
        return effects

    def _plain(self, connection_id: int, now: float) -> list[LinkEffect]:
        self.was_plain |= bool(self._log)
        return super()._plain(connection_id, now)

    def violation(self) -> str | None:
        """What this end delivered that it should not have."""
        return next((r.wrong for r in self.received_from.values() if r.wrong), None)

    def lost_in_silence(self) -> int:
        """Messages of this end that nobody delivered and that were not declared as given up. To be asked when the log is
        empty; a peer that was without the extension for a while makes the question moot."""
        if self.was_plain:
            return 0
        delivered = sum(received.count for received in self.sent.receivers)
        declared = self.counters.expired + self.counters.discarded
        return max(0, len(self.sent.messages) - delivered - declared)
