"""How often app servers may be asked to start sessions: paced per endpoint, and left alone when they are dead.

Rules: one machine per process, shared by all users. An endpoint that never answered well is given up after a few
cycles and probed every five minutes; one that worked a short while ago keeps its users' ordinary backoff. A start that
the wearer asked for is always let through. Source: failure catalogue APP-02, APP-10, APP-11.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: Endpoints remembered; the one unused for longest goes first.
ENDPOINTS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """Seconds and counts."""

    rate: float = 20.0  # session_requests per second (APP-10)
    wait: float = 4.0  # longest queue; a start must still have time for its webhook afterwards (APP-05)
    failures: int = 5  # consecutive failed cycles that open the breaker (APP-11)
    probe: float = 300.0  # then one probe per this time
    trusted: float = 600.0  # an endpoint that worked this recently is having an outage, not dead (APP-02)
    look: float = 5.0  # while many wait for one that worked, one of them tries this often (APP-02)
    returns: float = (
        10.0  # between two ends of an outage: a server that works every other time brings nobody forward
    )


@dataclass(slots=True)
class _Endpoint:
    next_slot: float = 0.0
    failures: int = 0
    worked_at: float | None = None
    open_until: float = 0.0
    returned_at: float = float("-inf")
    looked_at: bool = False


@dataclass(frozen=True, slots=True)
class Go:
    """Post after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Do not post; try again after `retry_after` seconds."""

    retry_after: float


class Endpoints:
    """The circuit breakers of all app servers, keyed by their base URL."""

    def __init__(self, limits: EndpointLimits | None = None) -> None:
        self._limits = limits or EndpointLimits()
        self._known: OrderedDict[str, _Endpoint] = OrderedDict()

    def ask(self, url: str, now: float, *, by_user: bool) -> Go | HeldBack:
        """May a session_request go to `url` now?"""
        endpoint = self._get(url)
        if not by_user and now < endpoint.open_until:
            return HeldBack(endpoint.open_until - now)
        wait = endpoint.next_slot - now
        if not by_user and wait > self._limits.wait:
            return HeldBack(wait)
        if self._is_open(endpoint, now):
            endpoint.open_until = now + self._limits.probe  # this one is the probe
        at = now if by_user else max(now, endpoint.next_slot)  # the wearer does not queue behind a herd
        endpoint.next_slot = max(at, endpoint.next_slot) + self.pause
        return Go(at - now)

    @property
    def pause(self) -> float:
        """Seconds between two session_requests to one endpoint."""
        return 1.0 / self._limits.rate

    def succeeded(self, url: str, now: float) -> bool:
        """An app of this endpoint has connected. True if that ends an outage: then everybody else who waits for this
        endpoint need not wait for his own next attempt (APP-02)."""
        endpoint = self._get(url)
        was_away = endpoint.failures > 0 and now - endpoint.returned_at >= self._limits.returns
        if was_away:
            endpoint.returned_at = now
        endpoint.failures, endpoint.worked_at, endpoint.open_until = 0, now, 0.0
        return was_away

    def failed(self, url: str, now: float) -> bool:
        """A cycle has ended without a connection. True: begin to look at this endpoint, every `look` seconds, until
        `looks_on` says no."""
        endpoint = self._get(url)
        endpoint.failures += 1
        if self._is_open(endpoint, now) and endpoint.open_until <= now:
            endpoint.open_until = now + self._limits.probe
        begins = not endpoint.looked_at and self.is_away(url, now)
        endpoint.looked_at = endpoint.looked_at or begins
        return begins

    def looks_on(self, url: str, now: float) -> bool:
        """Whether an endpoint that is looked at is still away; if not, looking ends."""
        if self.is_away(url, now):
            return True
        if url in self._known:
            self._known[url].looked_at = False
        return False

    @staticmethod
    def scout(attempts: Sequence[float]) -> int | None:
        """Who of those that wait tries the endpoint on behalf of all, given when each would by itself: the one whose
        turn is farthest away. The pauses of users who lost a server together grow together, so that it could be back
        for long before anybody asks. None: one alone keeps its own pace."""
        return None if len(attempts) < 2 else max(range(len(attempts)), key=attempts.__getitem__)

    @property
    def look(self) -> float:
        """Seconds between two looks at an endpoint that is away."""
        return self._limits.look

    def is_away(self, url: str, now: float) -> bool:
        """Whether an endpoint that worked a short while ago fails now: it will be back, and somebody should look."""
        endpoint = self._known.get(url)
        return (
            endpoint is not None
            and endpoint.failures > 0
            and endpoint.worked_at is not None
            and now - endpoint.worked_at <= self._limits.trusted
        )

    def seen(self, url: str) -> None:
        """The server was seen alive by other means: close the breaker."""
        endpoint = self._get(url)
        endpoint.failures, endpoint.open_until = 0, 0.0

    def is_open(self, url: str, now: float) -> bool:
        """Whether automatic starts are held back."""
        endpoint = self._known.get(url)
        return endpoint is not None and now < endpoint.open_until

    def _is_open(self, endpoint: _Endpoint, now: float) -> bool:
        if endpoint.failures < self._limits.failures:
            return False
        return endpoint.worked_at is None or now - endpoint.worked_at > self._limits.trusted

    def _get(self, url: str) -> _Endpoint:
        endpoint = self._known.get(url)
        if endpoint is None:
            endpoint = self._known[url] = _Endpoint()
            while len(self._known) > ENDPOINTS_MAX:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(url)
        return endpoint
