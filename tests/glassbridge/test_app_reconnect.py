"""Close codes and what an app makes of them (wire spec 3.11)."""

from __future__ import annotations

import pytest

from glassbridge.app.reconnect import GIVE_UP_AFTER, POLICY, Verdict, after_close


@pytest.mark.parametrize(
    ("code", "reason", "verdict"),
    [
        (1000, "", Verdict.FINISHED),
        (1001, "Ping timeout", Verdict.FINISHED),
        (1008, "Invalid API key", Verdict.REFUSED),
        (1011, "App stopped by user", Verdict.FINISHED),
        (1011, "User session ended", Verdict.FINISHED),
        (4409, "replaced", Verdict.FINISHED),
        (1011, "Internal error", Verdict.RETRY),
        (1012, "Service restart", Verdict.RETRY),
        (1013, "", Verdict.RETRY),
        (1005, "", Verdict.RETRY),
        (1006, "", Verdict.RETRY),
        (4000, "custom", Verdict.RETRY),
    ],
)
def test_a_close_code_decides_whether_the_app_comes_back(code: int, reason: str, verdict: Verdict) -> None:
    assert after_close(code, reason) is verdict


def test_attempts_follow_one_and_three_seconds_after_the_loss_and_stay_within_the_cloud_s_patience() -> None:
    at, attempts = 0.0, []
    for attempt in range(20):
        at += POLICY.delay(attempt, 0.5)
        if at <= GIVE_UP_AFTER:
            attempts.append(at)
    assert attempts[:3] == [1.0, 3.0, 7.0]
    assert len(attempts) <= 8
