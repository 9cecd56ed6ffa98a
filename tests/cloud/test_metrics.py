"""Metrics: the table is sound, the text form is Prometheus', nothing identifies a person."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud.metrics import PREFIX, TABLE, LoopWatch, Metrics, Tally
from tests.support.waiting import until


def test_every_line_follows_the_naming_rules() -> None:
    assert len({line.name for line in TABLE}) == len(TABLE)
    for line in TABLE:
        assert re.fullmatch(r"[a-z][a-z_]*", line.name)
        assert (line.kind == "counter") == line.name.endswith("_total"), line.name
        assert (line.kind == "histogram") == line.name.endswith("_seconds"), line.name
        assert line.about.endswith("."), line.name


@pytest.mark.failure("SEC-03")
def test_no_label_can_name_a_person_or_an_app() -> None:
    for line in TABLE:
        assert not set(line.labels) & {"user", "user_id", "email", "package", "session", "remote", "url"}


def test_the_text_form_parses() -> None:
    metrics = Metrics()
    metrics.counter("connects_total").labels("glasses").inc()
    metrics.gauge("sessions").labels("connected").set(3)
    metrics.histogram("webhook_seconds").labels("session_request").observe(0.2)
    metrics.read_on_scrape("frames_dropped_total", lambda: 7.0)
    families = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}
    assert families[PREFIX + "connects"].samples[0].value == 1
    assert families[PREFIX + "frames_dropped"].samples[0].value == 7
    assert len(families) >= len(TABLE)


def test_an_unknown_metric_fails_at_once() -> None:
    for lookup in (Metrics().counter, Metrics().gauge, Metrics().histogram):
        with pytest.raises(KeyError):
            lookup("nonsense")


@pytest.mark.failure("PRO-02")
def test_a_stall_is_visible_for_a_while_and_then_forgotten() -> None:
    watch = LoopWatch(Metrics())
    watch.sample(0.8)
    for _ in range(LoopWatch.WINDOW - 1):
        watch.sample(0.001)
    assert watch.lag == 0.8
    watch.sample(0.001)
    assert watch.lag == 0.001


async def test_the_watch_samples_the_running_loop() -> None:
    watch = LoopWatch(Metrics())
    watch.start()
    await until(lambda: watch._recent, "a sample of the loop")
    watch.stop()
    watch.stop()
    assert watch.lag >= 0.0


def test_a_tally_counts_what_observe_would() -> None:
    plain, carried = Metrics(), Metrics()
    series = carried.histogram("hop_seconds").labels(hop="cloud_display")
    tally = Tally(series)
    values = (0.0, 0.0005, 0.0006, 0.3, 0.3, 10.0, 99.0)
    for value in values:
        plain.histogram("hop_seconds").labels(hop="cloud_display").observe(value)
        tally.observe(value)
    tally.carry()
    tally.carry()  # nothing new

    def lines(metrics: Metrics) -> list[str]:
        text = metrics.text().decode()
        return [line for line in text.splitlines() if "hop_seconds" in line and "created" not in line]

    assert lines(plain) == lines(carried)
