"""What the workers of one machine say and do together: one page of metrics, who of them answers, one drain.

Rules: each worker is asked over the fabric when the page is; one that does not answer in time is missing from it, and said to
be. Series keep their names and get the label `worker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from cloud.cluster.fabric import Fabric, NoOne, Reply, Unavailable
from cloud.cluster.handover import Handover, supported
from cloud.metrics import PREFIX, WORKER_UP, Metrics

#: A scrape waits so long for the slowest worker, seconds; scrapers give up after 10.
PATIENCE: Final = 2.0
#: What a worker is asked.
_METRICS: Final = b"metrics"
_DRAIN: Final = b"drain"


class Siblings:
    """Implements `cloud.http.services.Siblings`. `await start()` first."""

    def __init__(
        self,
        fabric: Fabric,
        handover: Handover,
        metrics: Metrics,
        group: str,
        workers: int,
        on_drain: Callable[[], object],
    ) -> None:
        """`group`: what the addresses of these workers share, so that several machines keep apart. `on_drain`: all
        workers are to drain."""
        self._on_drain = on_drain
        self._fabric = fabric
        self._handover = handover
        self._metrics = metrics
        self._group = group
        self._numbers = range(workers)

    def _address(self, number: int) -> str:
        return f"w.{self._group}.{number}"

    async def start(self) -> None:
        def asked(data: bytes, reply: Reply | None) -> None:
            if data == _METRICS and reply is not None:
                reply(self._metrics.text())
            elif data == _DRAIN:
                self._on_drain()

        await self._fabric.listen(self._address(self._handover.me), asked)

    def drain(self) -> None:
        """Every worker drains, this one too."""
        for number in self._numbers:
            self._fabric.send(self._address(number), _DRAIN)

    @property
    def silent(self) -> list[int]:
        if not supported():  # without hand-over nobody is looked after
            return []
        return [number for number in self._numbers if number not in self._handover.live]

    async def metrics(self, own: bytes) -> bytes:
        others = [number for number in self._numbers if number != self._handover.me]
        answers = await asyncio.gather(*(self._ask(number) for number in others))
        pages = {number: page for number, page in zip(others, answers, strict=True) if page is not None}
        pages[self._handover.me] = own
        return merged(dict(sorted(pages.items())), up={number: number in pages for number in self._numbers})

    async def _ask(self, number: int) -> bytes | None:
        try:
            return await self._fabric.ask(self._address(number), _METRICS, PATIENCE)
        except (NoOne, Unavailable, TimeoutError):
            return None


def merged(pages: Mapping[int, bytes], up: Mapping[int, bool]) -> bytes:
    """Several pages in Prometheus' text form as one: each family once, each sample with the label `worker`."""
    comments: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for number, page in pages.items():
        family = ""
        for line in page.decode().splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2]
                known = comments.setdefault(family, [])
                samples.setdefault(family, [])
                if line not in known:
                    known.append(line)
            elif line:
                samples[family].append(_labelled(line, number))
    name = f"{PREFIX}{WORKER_UP.name}"
    comments[name] = [f"# HELP {name} {WORKER_UP.about}", f"# TYPE {name} {WORKER_UP.kind}"]
    samples[name] = [f'{name}{{worker="{number}"}} {int(answers)}.0' for number, answers in up.items()]
    lines = [line for family in comments for line in (*comments[family], *samples[family])]
    return ("\n".join(lines) + "\n").encode()


def _labelled(sample: str, number: int) -> str:
    """`name{a="b"} 1` or `name 1`; a label's value may hold braces and spaces, so the name's end is what counts."""
    label = f'worker="{number}"'
    brace, space = sample.find("{"), sample.find(" ")
    if 0 <= brace < space:
        return f"{sample[: brace + 1]}{label},{sample[brace + 1 :]}"
    return f"{sample[:space]}{{{label}}}{sample[space:]}"
