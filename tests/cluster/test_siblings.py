"""One page of metrics for all workers, in Prometheus' own form, with whoever is silent named."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud.cluster.handover import Handover, supported
from cloud.cluster.local import LocalEngine
from cloud.cluster.siblings import Siblings, merged
from cloud.metrics import Metrics
from tests.support.waiting import until


def test_pages_merge_into_one_that_prometheus_reads() -> None:
    pages = {}
    for number in (0, 1):
        metrics = Metrics()
        metrics.counter("events_delivered_total").inc(10 * (number + 1))
        metrics.gauge("sessions").labels(state='odd {"}\\ name').set(number)
        metrics.histogram("loop_lag_seconds").observe(0.1)
        metrics.read_on_scrape("sessions_alive", lambda number=number: number)  # type: ignore[misc]
        pages[number] = metrics.text()
    page = merged(pages, {0: True, 1: True, 2: False}).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert len(families) == page.count("# TYPE")

    def values(family: str, sample: str) -> dict[str, float]:
        return {s.labels["worker"]: s.value for s in families[family].samples if s.name == sample}

    assert values("glassbridge_events_delivered", "glassbridge_events_delivered_total") == {"0": 10, "1": 20}
    assert values("glassbridge_sessions_alive", "glassbridge_sessions_alive") == {"0": 0, "1": 1}
    assert values("glassbridge_worker_up", "glassbridge_worker_up") == {"0": 1, "1": 1, "2": 0}
    assert {s.labels["state"] for s in families["glassbridge_sessions"].samples} == {'odd {"}\\ name'}
    assert all("worker" in s.labels for family in families.values() for s in family.samples)
    buckets = [s for s in families["glassbridge_loop_lag_seconds"].samples if s.name.endswith("_bucket")]
    assert {s.labels["worker"] for s in buckets} == {"0", "1"}


@pytest.mark.skipif(not supported(), reason="descriptors are handed over on Linux only")
async def test_a_worker_that_does_not_answer_is_missing_and_said_to_be() -> None:
    async def never(sock: object, data: bytes) -> None:
        raise AssertionError("nothing is handed over here")

    engine = await LocalEngine.open()
    with tempfile.TemporaryDirectory(prefix="gb-") as directory:
        handovers = [Handover(Path(directory), number, 3, never) for number in (0, 1)]
        drained: list[int] = []
        siblings = [
            Siblings(engine.node(), handover, Metrics(), "group", 3, partial(drained.append, handover.me))
            for handover in handovers
        ]
        for handover, one in zip(handovers, siblings, strict=True):
            handover.start()
            await one.start()
        await until(lambda: siblings[0].silent == [2], "the other one to be known")
        async with asyncio.timeout(10):
            page = (await siblings[0].metrics(Metrics().text())).decode()
        up = {line for line in page.splitlines() if line.startswith("glassbridge_worker_up{")}
        assert up == {f'glassbridge_worker_up{{worker="{n}"}} {v}' for n, v in ((0, 1.0), (1, 1.0), (2, 0.0))}
        siblings[0].drain()
        await until(lambda: sorted(drained) == [0, 1], "both to be told")
        for handover in handovers:
            await handover.close()
    await engine.close()
