"""A cloud of its own for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.server import Cloud
from tests.support.cloud import running


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """On loopback, with a data directory of its own and the usual times."""
    async with running(tmp_path) as cloud:
        yield cloud
