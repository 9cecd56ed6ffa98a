"""Health, readiness and metrics of the cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.store.base import StoreError
from tests.cloud.http_world import http_world
from wire.placement import session_key


async def test_health_has_mentras_shape(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        body = (await world.get("/health")).json()
        assert body["status"] == "ok"
        assert body["timestamp"].endswith("Z")


@pytest.mark.failure("PRO-06")
async def test_liveness_depends_on_nothing_and_readiness_names_what_is_wrong(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        assert (await world.get("/readyz")).json() == {
            "status": "ready",
            "checks": {"storage": "ok", "drain": "ok", "load": "ok"},
        }
        calls = 0

        async def broken() -> None:
            nonlocal calls
            calls += 1
            raise StoreError("disk full")

        world.store.check = broken  # type: ignore[method-assign]
        assert (await world.get("/readyz")).status_code == 200, "the last verdict holds for a second"
        world.now += 1.0
        for _ in range(3):
            answer = await world.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["checks"]["storage"] == "disk full"
        assert calls == 1
        assert (await world.get("/livez")).json() == {"status": "alive"}
        assert (await world.get("/health")).status_code == 200


@pytest.mark.failure("PRO-02")
async def test_an_overloaded_loop_is_not_ready_but_alive(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.services.loop_watch.sample(2.0)
        answer = await world.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["load"] == "event loop 2.0 s late"
        assert (await world.get("/livez")).status_code == 200


async def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        answer = await world.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "# TYPE glassbridge_loop_lag_seconds histogram" in answer.text


async def test_the_prefix_that_places_a_session_is_taken_off_before_routing(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        key = session_key("anna@home.example")
        assert (await world.get(f"/s/{key}/health")).json()["status"] == "ok"
        assert (await world.get(f"/s/{key}/nowhere")).status_code == 404
        assert (await world.get("/s/short/health")).status_code == 404


async def test_of_several_workers_the_silent_ones_are_named_and_the_page_is_everybodys(
    tmp_path: Path,
) -> None:
    class Siblings:
        silent = [2]

        async def metrics(self, own: bytes) -> bytes:
            return own + b"# and the others\n"

        def drain(self) -> None:
            raise AssertionError("nobody asked for it")

    async with http_world(tmp_path) as world:
        world.services.siblings = Siblings()
        answer = await world.get("/readyz")
        assert answer.status_code == 200, "the others serve what was theirs"
        assert answer.json()["checks"]["workers"] == "no answer from 2"
        assert (await world.get("/metrics")).text.endswith("# and the others\n")
