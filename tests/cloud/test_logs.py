"""Logging: two forms, no secrets, no floods, no waiting."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from cloud import logs
from cloud.auth import TokenVerifier
from cloud.config import LogConfig
from cloud.logs import LogSystem, scrub, short_hash

log = logging.getLogger("test.cloud")


@contextmanager
def logging_to(stream: io.StringIO, **settings: str) -> Iterator[LogSystem]:
    system = LogSystem(LogConfig.model_validate(settings), stream)
    try:
        yield system
    finally:
        system.close()


def test_machines_get_one_json_object_per_line() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        log.info("session %s began", "s1")
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("it broke")
        log.debug("not at this level")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "session s1 began"),
        ("error", "it broke"),
    ]
    assert lines[0]["logger"] == "test.cloud"
    assert lines[0]["at"] == pytest.approx(time.time(), abs=60)
    assert "ValueError: boom" in lines[1]["trace"]


def test_people_get_a_line() -> None:
    stream = io.StringIO()
    with logging_to(stream, format="human", level="debug"):
        log.debug("words")
    assert "DEBUG   test.cloud: words\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("form", "wanted"), [("json", '"worker":"2"'), ("human", " [2] INFO    test.cloud: words\n")]
)
def test_of_several_processes_each_line_says_whose_it_is(form: Literal["json", "human"], wanted: str) -> None:
    stream = io.StringIO()
    system = LogSystem(LogConfig(format=form), stream, worker="2")
    log.info("words")
    system.close()
    assert wanted in stream.getvalue()


@pytest.mark.failure("SEC-03")
def test_credentials_and_addresses_never_reach_the_log() -> None:
    token = TokenVerifier(["s" * 40]).mint_core_token("anna@home.example")
    stream = io.StringIO()
    with logging_to(stream):
        log.warning("GET /glasses-ws?token=%s&livekit=true", token)
        log.warning("header Authorization: Bearer %s", "com.app:key-canary")
        log.warning('body {"apiKey": "key-canary", "x": 1} of %s', "Anna@Home.Example")
        log.warning("secret=key-canary; api_key: key-canary")
        log.warning("bare %s", token)
        try:
            raise RuntimeError(f"token={token} of anna@home.example")
        except RuntimeError:
            log.exception("failed")
    text = stream.getvalue()
    for canary in (token, token[:40], "key-canary", "anna@home", "Anna@Home"):
        assert canary not in text, canary
    assert short_hash("anna@home.example") in text


@pytest.mark.parametrize(
    "text",
    [
        "session s1 began, 3 apps",
        "connection 7 is dead: silent for 45 s",
        "token refused",
        "GET /api/client/apps failed",
        "speech provider tcp://10.0.0.5:10300: cannot connect",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert scrub(text) == text


@pytest.mark.failure("PRO-08")
def test_a_repeated_message_is_limited_and_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with logging_to(stream):
        for number in range(500):
            log.warning("bad frame of connection %d", number)
            log.info("something else")
        monkeypatch.setattr(logs, "WINDOW", 0.0)
        log.warning("bad frame of connection %d", 500)
    lines = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert len(lines) == 21
    assert lines[-1] == "bad frame of connection 500 (490 more like this were not logged)"


def test_the_memory_of_templates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "TEMPLATES_MAX", 5)
    stream = io.StringIO()
    with logging_to(stream) as system:
        for number in range(50):
            log.warning(f"template {number}")
        (repeats,) = system._handler.filters
        assert isinstance(repeats, logs._Repeats)
        assert len(repeats._seen) == 5


class Blocked(io.StringIO):
    """A sink that hangs until it is released, as a full pipe does."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def write(self, text: str) -> int:
        self.release.wait()
        return super().write(text)


@pytest.mark.failure("PRO-08")
def test_a_blocked_sink_never_blocks_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "QUEUE_MAX", 100)
    stream = Blocked()
    with logging_to(stream) as system:
        started = time.monotonic()
        for number in range(1000):
            log.warning(f"template {number}")
        assert time.monotonic() - started < 5.0
        assert system.dropped >= 890
        stream.release.set()
    assert (
        "records were dropped" in stream.getvalue().splitlines()[-1]
        or "records were dropped" in stream.getvalue()
    )


def test_the_root_logger_is_given_back() -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    system = LogSystem(LogConfig(level="error"), io.StringIO())
    system.close()
    system.close()
    assert (root.level, root.handlers[:]) == before
