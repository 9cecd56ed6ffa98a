"""A data directory has one active cloud; a second one says so and leaves the first alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.instance import Instance
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register, running, subscribed
from tests.support.waiting import until
from wire.errors import ConfigError


def test_a_directory_is_free_again_after_its_release(tmp_path: Path) -> None:
    Instance(tmp_path).release()
    first = Instance(tmp_path)
    with pytest.raises(ConfigError, match="another cloud serves it"):
        Instance(tmp_path)
    first.release()
    Instance(tmp_path).release()


@pytest.mark.failure("LIV-05")
async def test_a_second_cloud_is_refused_and_a_successor_takes_over_whole(tmp_path: Path) -> None:
    async with FakeApp("com.example.app", "key", "button_press") as app:
        async with running(tmp_path) as cloud:
            await register(cloud, app)
            async with phone(cloud) as glasses:
                await glasses.start_app(app.package)
                await app.started(USER)
                with pytest.raises(ConfigError, match="another cloud serves it"):
                    async with running(tmp_path):
                        pass
                # The first one is untouched by the attempt.
                await subscribed(cloud, app.package)
                await glasses.send("button_press", buttonId="main", pressType="short")
                await until(lambda: app.session(USER).events("button_press"), "the press arrives")
        assert len(app.requests()) == 1
        # Its successor takes over: same token, same wanted app, one session.
        async with running(tmp_path) as successor, phone(successor) as glasses:
            await glasses.next("connection_ack")
            await until(lambda: len(app.requests()) == 2, "the app is asked by the successor", 10)
            await subscribed(successor, app.package)
            await glasses.send("button_press", buttonId="again", pressType="short")
            await until(lambda: app.session(USER).events("button_press"), "the press arrives")
