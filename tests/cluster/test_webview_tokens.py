"""Tokens for web views that one process makes and another redeems: once, in time, for the right app."""

from __future__ import annotations

import asyncio

import pytest

from cloud.auth import WebviewTokens
from cloud.cluster import webview_tokens as module
from cloud.cluster.fabric import Rec, Unavailable
from cloud.cluster.local import LocalEngine
from cloud.cluster.webview_tokens import SharedWebviewTokens


async def test_a_token_made_here_is_redeemed_there_once() -> None:
    engine = await LocalEngine.open()
    nodes = [SharedWebviewTokens(engine.node(), WebviewTokens()) for _ in range(3)]
    token = await nodes[0].issue("anna@x", "app", 0.0)
    assert len(token) == 64
    users = await asyncio.gather(*(node.redeem(token, "app", 1.0) for node in nodes * 5))
    assert sorted(user for user in users if user is not None) == ["anna@x"]
    assert await nodes[0].redeem(token, "app", 1.0) is None
    assert await nodes[1].redeem("0" * 64, "app", 1.0) is None
    await engine.close()


async def test_the_wrong_app_burns_it_and_time_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await LocalEngine.open()
    a, b = (SharedWebviewTokens(engine.node(), WebviewTokens()) for _ in range(2))
    token = await a.issue("anna@x", "app", 0.0)
    assert await b.redeem(token, "other", 1.0) is None
    assert await a.redeem(token, "app", 1.0) is None
    token = await a.issue("anna@x", "app", 0.0)
    later = module.time.time() + 61
    monkeypatch.setattr(module.time, "time", lambda: later)
    assert await b.redeem(token, "app", 1.0) is None
    await engine.close()


async def test_while_the_records_are_away_a_token_works_where_it_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = await LocalEngine.open()
    node = engine.node()

    async def away(*_: object, **__: object) -> Rec | None:
        raise Unavailable("the broker is away")

    monkeypatch.setattr(node, "get", away)
    monkeypatch.setattr(node, "put", away)
    a, b = SharedWebviewTokens(node, WebviewTokens()), SharedWebviewTokens(node, WebviewTokens())
    token = await a.issue("anna@x", "app", 0.0)
    assert await b.redeem(token, "app", 1.0) is None
    assert await a.redeem(token, "app", 1.0) == "anna@x"
    assert await a.redeem(token, "app", 1.0) is None
    await engine.close()
