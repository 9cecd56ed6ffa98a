"""Logging of the cloud: people read lines, machines read JSON, and neither can slow the event loop or learn secrets.

Rules: a record goes into a bounded queue and a thread writes it; when the sink is slow, records are dropped and counted.
One message template is written at most ten times a minute, then summed up. Credentials and e-mail addresses are taken
out of every line, whoever wrote it. Sources: product.md (logs); failure catalogue PRO-08, SEC-03.
"""

from __future__ import annotations

import hashlib
import logging
import logging.handlers
import queue
import re
import sys
import threading
from typing import IO, Any, Final

import orjson

from cloud.config import LogConfig

#: Records that may wait for the sink: about 2 MB, some seconds of the worst that the limit lets through.
QUEUE_MAX: Final = 10_000
#: Records of one template (logger, level, words) per `WINDOW` seconds.
REPEATS_MAX: Final = 10
WINDOW: Final = 60.0
#: The end of the process waits so long for a slow sink, twice.
CLOSE_TIMEOUT: Final = 1.0
#: Templates that are told apart; beyond it the oldest is forgotten. The program has a few hundred.
TEMPLATES_MAX: Final = 2000

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_CREDENTIAL: Final = re.compile(
    r"(?i)(\bbearer\s+|\b(?:token|api_?key|apikey|secret|authorization|aos_\w+)[\"']?\s*[=:]\s*[\"']?)"
    r"(?!bearer\b)[^\s\"'&,;})]+"
)
_JWT: Final = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+")


def scrub(text: str) -> str:
    """The same text without credentials; an e-mail address becomes a short hash that is the same each time."""
    text = _JWT.sub("[token]", text)
    text = _CREDENTIAL.sub(r"\1[hidden]", text)
    return _EMAIL.sub(lambda found: short_hash(found[0]), text)


def short_hash(user_id: str) -> str:
    """How a user appears in a log."""
    return "user-" + hashlib.sha256(user_id.lower().encode()).hexdigest()[:8]


class _Human(logging.Formatter):
    """`12:00:01 WARNING cloud.hub: words`; of one of several workers `12:00:01 [1] WARNING cloud.hub: words`"""

    def __init__(self, worker: str | None) -> None:
        tag = "" if worker is None else f"[{worker}] "
        super().__init__(f"%(asctime)s {tag}%(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


class _JsonLines(logging.Formatter):
    """One JSON object per line: at (UNIX seconds), worker (where there are several), level, logger, message, trace."""

    def __init__(self, worker: str | None) -> None:
        super().__init__()
        self._tag = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            **self._tag,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": scrub(record.getMessage()),
        }
        if record.exc_info:
            line["trace"] = scrub(self.formatException(record.exc_info))
        elif record.exc_text:
            line["trace"] = scrub(record.exc_text)
        return orjson.dumps(line).decode()


class _Repeats(logging.Filter):
    """Lets a template through ten times a minute and says afterwards how often it was held back."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int, str], list[float]] = {}  # key -> [window start, passed, held back]

    def filter(self, record: logging.LogRecord) -> bool:
        key = (record.name, record.levelno, str(record.msg))
        now = record.created
        state = self._seen.get(key)
        if state is None or now - state[0] >= WINDOW or now < state[0]:
            held = int(state[2]) if state is not None else 0
            self._seen.pop(key, None)
            self._seen[key] = [now, 1.0, 0.0]
            if len(self._seen) > TEMPLATES_MAX:
                self._seen.pop(next(iter(self._seen)))
            if held:
                record.msg = f"{record.getMessage()} ({held} more like this were not logged)"
                record.args = None
            return True
        if state[1] < REPEATS_MAX:
            state[1] += 1
            return True
        state[2] += 1
        return False


class _BoundedHandler(logging.handlers.QueueHandler):
    """Never blocks the caller; counts what did not fit."""

    def __init__(self, records: queue.Queue[Any]) -> None:
        super().__init__(records)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # Formatting happens in the writing thread; only what must not change meanwhile is fixed here.
        record.message = record.getMessage()
        record.msg, record.args = record.message, None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)  # type: ignore[union-attr,unused-ignore]
        except queue.Full:
            self.dropped += 1


class LogSystem:
    """Logging as configured, until `close`."""

    def __init__(
        self, config: LogConfig, stream: IO[str] | None = None, *, worker: str | None = None
    ) -> None:
        """`worker`: which of several processes that write to one place."""
        stream = stream if stream is not None else sys.stderr
        human = config.format == "human" or (config.format == "auto" and stream.isatty())
        sink = logging.StreamHandler(stream)
        sink.setFormatter(_Human(worker) if human else _JsonLines(worker))
        records: queue.Queue[Any] = queue.Queue(QUEUE_MAX)
        self._handler = _BoundedHandler(records)
        self._handler.addFilter(_Repeats())
        self._sink = sink
        self._records = records
        # Ours, not the standard QueueListener: that one cannot be stopped while its sink hangs.
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        root = logging.getLogger()
        self._before = (root.level, root.handlers[:])
        root.handlers[:] = [self._handler]
        root.setLevel(_LEVELS[config.level])
        # These say at INFO what our own lines say better, with whole URLs.
        for name in ("httpx", "httpcore", "uvicorn.error", "uvicorn.access", "websockets", "asyncio"):
            logging.getLogger(name).setLevel(max(logging.WARNING, _LEVELS[config.level]))
        self._thread.start()

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            self._sink.handle(record)

    @property
    def dropped(self) -> int:
        """Records that did not fit into the queue."""
        return self._handler.dropped

    def close(self) -> None:
        """Give the root logger back and write what waits, for at most `CLOSE_TIMEOUT`; a hanging sink is left behind."""
        root = logging.getLogger()
        if self._handler not in root.handlers:
            return
        level, handlers = self._before
        root.setLevel(level)
        root.handlers[:] = handlers
        try:
            self._records.put(None, timeout=CLOSE_TIMEOUT)
        except queue.Full:
            return
        self._thread.join(CLOSE_TIMEOUT)
        if self.dropped and not self._thread.is_alive():
            message = f"{self.dropped} records were dropped: the log's sink is too slow"
            self._sink.handle(logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None))
