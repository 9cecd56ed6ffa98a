"""An exchange is put together from the trace, with what was measured and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.core.exchange import PENDING_MAX, Exchanges
from cloud.core.hops import ANSWER_MAX

Record = tuple[str, float, dict[str, Any]]


def said(at: float, **more: Any) -> Record:
    return (
        "from_glasses",
        at,
        {"about": "touch_event", "bytes": 80, "sent_at": at - 0.004, "uplink_ms": 4.0, **more},
    )


def heard(at: float, **more: Any) -> Record:
    detail = {
        "language": "en-US",
        "provider": "wyoming",
        "provider_ms": 320.0,
        "audio_ms": 6.0,
        "rtt_ms": 8.0,
    }
    return "transcript", at, {**detail, **more}


def delivered(at: float, about: str = "touch_event") -> Record:
    return "to_app", at, {"about": about, "apps": 1, "bytes": 200}


def displayed(at: float, number: int = 7) -> Record:
    return "display", at, {"id": number, "view": "main", "package": "org.example.clock", "app_rtt_ms": 1.5}


def settled(at: float, waited: float, number: int = 7) -> Record:
    return "display_settled", at, {"id": number, "outcome": "shown", "waited": waited}


def result(at: float, number: int = 7, outcome: str = "shown") -> Record:
    detail = {"id": str(number), "outcome": outcome, "downlink_ms": 5.0, "edge_ms": 1.0, "ble_ms": 40.0}
    return "display_result", at, detail


def run(*records: Record) -> list[dict[str, Any]]:
    exchanges = Exchanges()
    return [done for kind, at, detail in records if (done := exchanges.add(kind, at, detail)) is not None]


def test_each_hop_has_its_time_and_they_add_up() -> None:
    (done,) = run(said(10.0), delivered(10.001), displayed(10.05), settled(10.05, 0.03), result(10.1))
    assert [(hop["who"], hop["ms"]) for hop in done["hops"]] == [
        ("glasses", None), ("edge", None), ("cloud", 5.0), ("app", pytest.approx(19.0)), ("cloud", 30.0), ("edge", 5.0),
        ("radio", 1.0), ("lens", 40.0),
    ]  # fmt: skip
    assert done["total_ms"] == pytest.approx(100.0)
    assert done["about"] == "touch_event"
    assert done["sent_at"] == pytest.approx(9.996)


def test_speech_goes_by_microphone_and_provider() -> None:
    (done,) = run(heard(10.0), delivered(10.0, "transcription:en-US"), displayed(10.05), result(10.1))
    assert [(hop["who"], hop["ms"]) for hop in done["hops"]][:4] == [
        ("microphone", None), ("edge", 6.0), ("cloud", 4.0), ("provider", 320.0),
    ]  # fmt: skip


def test_typed_words_have_not_come_by_the_microphone() -> None:
    typed = heard(10.0, provider="text", provider_ms=None)
    (done,) = run(typed, delivered(10.0, "transcription:en-US"), displayed(10.05), result(10.1))
    assert [hop["ms"] for hop in done["hops"]][:4] == [None] * 4
    assert done["hops"][3]["what"] == "typed"


def test_the_ways_to_an_app_and_back_are_said_to_be_unknown() -> None:
    (done,) = run(said(10.0), delivered(10.0), displayed(10.05), result(10.1))
    app = next(hop for hop in done["hops"] if hop["who"] == "app")
    assert app["what"] == "clock"
    assert app["note"] == "both ways are in it, for its clock is unknown; they take 1.5 ms"


def test_what_nobody_measured_stays_open() -> None:
    phone = said(10.0, sent_at=None, uplink_ms=None)
    (done,) = run(phone, delivered(10.0), displayed(10.01), result(10.1))
    assert done["hops"][2]["ms"] is None
    assert done["hops"][4]["ms"] is None
    assert done["sent_at"] is None


def test_words_are_not_caused_by_what_the_glasses_said_meanwhile() -> None:
    (done,) = run(said(10.0), delivered(10.0, "transcription:en-US"), displayed(10.01), result(10.1))
    assert done["sent_at"] is None
    assert done["hops"][0]["who"] == "microphone"


def test_a_late_display_a_failed_one_and_one_of_the_dashboard_are_no_answer() -> None:
    assert run(delivered(10.0), displayed(10.0 + ANSWER_MAX + 1), result(13)) == []
    assert run(delivered(10.0), displayed(10.1), result(10.2, outcome="failed")) == []
    dashboard = displayed(10.1)
    dashboard[2]["view"] = "dashboard"
    assert run(delivered(10.0), dashboard, result(10.2)) == []


def test_only_the_first_display_answers_an_event() -> None:
    records = delivered(10.0), displayed(10.1, 1), displayed(10.2, 2), result(10.3, 2), result(10.3, 1)
    assert len(run(*records)) == 1


def test_results_that_never_come_are_forgotten() -> None:
    exchanges = Exchanges()
    for number in range(3 * PENDING_MAX):
        exchanges.add(*delivered(10.0))
        exchanges.add(*displayed(10.0, number))
    assert len(exchanges._displays) == PENDING_MAX
