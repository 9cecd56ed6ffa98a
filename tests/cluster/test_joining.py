"""What a node says of its own configuration when it joins a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.brokers import Brokers
from tests.support.cloud import running


async def test_a_node_with_users_of_its_own_says_so(
    broker: Brokers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, cluster__nats=broker.urls, cluster__replicas=1):
        assert "store.url" in caplog.text
