"""The last exchange is put together from the trace, with what was measured and nothing else."""

from __future__ import annotations

from typing import Any

from glassbridge.exchange import ANSWER_MAX, PENDING_MAX, Exchanges

USER = "anna@example.com"


def record(kind: str, at: float, **detail: Any) -> dict[str, Any]:
    return {"user": USER, "kind": kind, "at": at, **detail}


def delivered(at: float, about: str = "touch_event") -> dict[str, Any]:
    return record("to_app", at, about=about, apps=1)


def displayed(at: float, number: int = 7) -> dict[str, Any]:
    return record("display", at, id=number, view="main", package="org.example.clock")


def result(at: float, number: int = 7, outcome: str = "shown") -> dict[str, Any]:
    return record("display_result", at, id=str(number), outcome=outcome, edge_ms=1.0, ble_ms=40.0)


def run(*records: dict[str, Any], touched: float | None = None) -> list[dict[str, Any]]:
    exchanges = Exchanges(USER)
    if touched is not None:
        exchanges.touched(touched)
    return [done for one in records if (done := exchanges.add(one)) is not None]


def test_each_hop_has_its_time_and_they_add_up() -> None:
    settled = record("display_settled", 10.05, id=7, waited=0.03)
    (done,) = run(delivered(10.01), displayed(10.05), settled, result(10.1), touched=10.0)
    assert [(hop["who"], None if hop["ms"] is None else round(hop["ms"])) for hop in done["hops"]] == [
        ("glasses", None), ("cloud", 10), ("app", 10), ("cloud", 30), ("edge", 1), ("lens", 40),
    ]  # fmt: skip
    assert round(done["total_ms"]) == 91
    assert done["hops"][0]["what"] == "touch_event"


def test_what_nobody_measured_stays_open() -> None:
    (done,) = run(delivered(10.0), displayed(10.01), result(10.1))
    assert done["hops"][1]["ms"] is None
    assert done["hops"][3]["ms"] is None


def test_a_late_display_a_failed_one_and_another_user_s_are_no_answer() -> None:
    assert run(delivered(10.0), displayed(10.0 + ANSWER_MAX + 1), result(13)) == []
    assert run(delivered(10.0), displayed(10.1), result(10.2, outcome="failed")) == []
    assert run({**delivered(10.0), "user": "eve@example.com"}, displayed(10.1), result(10.2)) == []


def test_only_the_first_display_answers_an_event() -> None:
    assert (
        len(run(delivered(10.0), displayed(10.1, 1), displayed(10.2, 2), result(10.3, 2), result(10.3, 1)))
        == 1
    )


def test_results_that_never_come_are_forgotten() -> None:
    exchanges = Exchanges(USER)
    for number in range(3 * PENDING_MAX):
        exchanges.add(delivered(10.0))
        exchanges.add(displayed(10.0, number))
    assert len(exchanges._displays) == PENDING_MAX
