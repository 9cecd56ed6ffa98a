"""What the process keeps for a session: names in logs, callers and streams at its end."""

from __future__ import annotations

import pytest

from cloud.session_entry import short
from tests.support.cloud import USER


@pytest.mark.failure("SEC-03")
def test_a_user_in_logs_is_no_name() -> None:
    assert USER not in short(USER)
    assert short(USER) == short(USER) != short("other@example.com")
