"""A cloud of its own for a test: real sockets on loopback, its own data directory, short times where a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloud.auth import hash_api_key
from cloud.config import CloudConfig
from cloud.server import Cloud
from cloud.store.records import AppRecord, AppType, Permission
from tests.support.app_server import FakeApp
from tests.support.fake_phone import FakePhone, Generation
from tests.support.waiting import until

USER = "anna-b@example.com"
#: So that a second cloud on the same data directory accepts the tokens of the first.
SECRET = "a secret for tests that is long enough, nothing more"


@asynccontextmanager
async def running(data_dir: Path, **overrides: Any) -> AsyncIterator[Cloud]:
    """`overrides` by their dotted names, `__` for the dot: `sessions__app_grace=0.5`."""
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    settings = {"data_dir": str(data_dir), "port": 0, "profile": "dev", "auth.secret": SECRET, **given}
    async with Cloud(CloudConfig.load(overrides=settings, env={})) as cloud:
        yield cloud


async def register(
    cloud: Cloud,
    app: FakeApp,
    *permissions: str,
    kind: AppType = AppType.BACKGROUND,
    settings: tuple[dict[str, Any], ...] = (),
) -> None:
    """Put the app's record into the store."""
    await cloud.store.put_app(
        AppRecord(
            package_name=app.package,
            name=app.package.rpartition(".")[2],
            public_url=app.url,
            hashed_api_key=hash_api_key(app.api_key),
            app_type=kind,
            permissions=tuple(Permission(p) for p in permissions),
            settings=settings,
        )
    )


def phone(cloud: Cloud, generation: Generation = "T", user: str = USER) -> FakePhone:
    """A phone with a good token."""
    return FakePhone(cloud.url, user, cloud.verifier.mint_core_token(user), generation)


async def subscribed(cloud: Cloud, package: str, user: str = USER) -> None:
    """Wait until the cloud knows what the app listens to."""

    def find() -> bool:
        view = cloud.hub.session_view(user)
        return view is not None and any(a.package_name == package and a.subscriptions for a in view.apps)

    await until(find, f"{package} is subscribed for {user}")
