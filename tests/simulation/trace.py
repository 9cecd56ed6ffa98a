"""Prints what happens in a simulated world, for a person who goes after a failing seed.

Rules: nothing of the simulation knows that it is watched; heartbeats and sound are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.simulation.app_server import AppSession
from tests.simulation.cloud_program import CloudProgram
from tests.simulation.edge_program import EdgeProgram
from tests.simulation.world import START, Step, World

_QUIET = ("SendAudio", "PingApp", "Decode", "Scan", "Write")
_NOISE = (b'"pong"', b'"ping"', b"glassbridge_status", b"glassbridge_ack")


def _words(effect: Any) -> str | None:
    kind = type(effect).__name__
    if kind in _QUIET:
        return None
    payload = getattr(effect, "payload", None) or getattr(effect, "data", None)
    if isinstance(payload, bytes):
        if any(noise in payload for noise in _NOISE):
            return None
        to = getattr(effect, "connection_ids", None) or getattr(effect, "connection_id", "")
        return f"{kind} {to} {payload[:230].decode('utf-8', 'replace')}"
    return str(effect)[:260]


@contextmanager
def printing(on: bool) -> Iterator[None]:
    """While this is open, every world prints its steps, effects and what apps and lenses get."""
    if not on:
        yield
        return
    originals = (World._take, EdgeProgram._perform, CloudProgram._perform, AppSession.received, World.heal)
    take, edge_perform, cloud_perform, app_received, heal = originals

    def at(owner: Any) -> str:
        return f"{owner.pump.now - START:9.3f}"

    def traced_take(self: World, step: Step) -> None:
        print(f"{at(self)} STEP {step.kind} wearer {step.who} value {step.value}")
        take(self, step)

    def traced_heal(self: World) -> None:
        print(f"{at(self)} HEAL")
        heal(self)

    def traced_edge(self: EdgeProgram, effects: Sequence[Any]) -> None:
        for effect in effects:
            if (words := _words(effect)) is not None:
                print(f"{at(self)}   {self.user} edge   {words}")
        edge_perform(self, effects)

    def traced_cloud(self: CloudProgram, seat: Any, effects: Sequence[Any]) -> None:
        for effect in effects:
            if (words := _words(effect)) is not None:
                print(f"{at(self)}   {seat.user} cloud  {words}")
        cloud_perform(self, seat, effects)

    def traced_app(self: AppSession, connection: Any, data: bytes, binary: bool) -> None:
        if not binary:
            print(f"{at(self.server)}   {self.user} app    {self.server.package} <- {data[:200]!r}")
        app_received(self, connection, data, binary)

    try:
        World._take, EdgeProgram._perform, CloudProgram._perform = traced_take, traced_edge, traced_cloud  # type: ignore[method-assign]
        AppSession.received, World.heal = traced_app, traced_heal  # type: ignore[method-assign]
        yield
    finally:
        World._take, EdgeProgram._perform, CloudProgram._perform = take, edge_perform, cloud_perform  # type: ignore[method-assign]
        AppSession.received, World.heal = app_received, heal  # type: ignore[method-assign]
