"""A cloud without sessions for tests of the HTTP routes: real store, tokens and routes; the hub is scripted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from cloud.auth import RateLimiter, TokenVerifier, hash_api_key
from cloud.config import CloudConfig
from cloud.http.app import build_http_app
from cloud.http.ports import AppOutcome, AppView, Presence, SessionView
from cloud.http.services import Services
from cloud.metrics import LoopWatch, Metrics
from cloud.store.records import AppRecord, Permission
from cloud.store.sqlite import SqliteStore
from cloud.webhooks import DestinationPolicy, WebhookClient
from wire.messages.glasses_to_cloud import GlassesToCloud

SECRET = "s" * 40
ADMIN = "the-admin-token"
ANNA, BEN = "anna@home.example", "ben@home.example"
APP, OTHER = "com.example.app", "com.example.other"
KEY, OTHER_KEY = "key-of-the-app", "key-of-the-other"


class ScriptedHub:
    """Implements `cloud.http.ports.Hub`; notes what it was told."""

    def __init__(self) -> None:
        self.draining = False
        self.sessions: dict[str, SessionView] = {}
        self.told: list[tuple[Any, ...]] = []
        self.events: list[tuple[str, GlassesToCloud]] = []
        self.outcome = AppOutcome()
        self.present: dict[str, list[Presence]] = {}
        self.owners: dict[str, tuple[str, str]] = {}
        self.expected: set[tuple[str, str]] = set()
        self.records: list[dict[str, Any]] = []
        self.streams: dict[tuple[str, str], list[bytes]] = {}

    def connect(self, user_id: str, *apps: AppView, remote: str = "127.0.0.1") -> None:
        self.sessions[user_id] = SessionView(
            user_id, "s-" + user_id, "connected", connected=True, remote=remote, apps=apps
        )
        for view in apps:
            self.present.setdefault(view.package_name, []).append(Presence(user_id, "s", 1_700_000_000.0))

    def session_view(self, user_id: str) -> SessionView | None:
        return self.sessions.get(user_id)

    def session_owner(self, session_id: str) -> tuple[str, str] | None:
        return self.owners.get(session_id)

    def users_of(self, package_name: str) -> Sequence[Presence]:
        return self.present.get(package_name, [])

    def trace(self, since: int = 0) -> Sequence[Mapping[str, Any]]:
        return [record for record in self.records if record["seq"] > since]

    @property
    def backlog(self) -> int:
        return 0

    def user_ids(self) -> list[str]:
        return list(self.sessions)

    def changed(self, since: int) -> tuple[int, set[str] | None]:
        return since + 1, set(self.sessions)

    def lanes(self, user_id: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {}

    def webhooks_of(self, package_name: str) -> Sequence[Mapping[str, Any]]:
        return []

    async def replay_webhook(self, package_name: str, number: int) -> Mapping[str, Any] | None:
        return None

    def replay(self, seq: int) -> bool:
        return any(record["seq"] == seq for record in self.records)

    async def start_app(self, user_id: str, package_name: str) -> AppOutcome:
        self.told.append(("start", user_id, package_name))
        return self.outcome

    async def stop_app(self, user_id: str, package_name: str) -> AppOutcome:
        self.told.append(("stop", user_id, package_name))
        return self.outcome

    async def end_session(self, user_id: str, reason: str) -> bool:
        self.told.append(("end", user_id, reason))
        return self.sessions.pop(user_id, None) is not None

    def phone_event(self, user_id: str, message: GlassesToCloud) -> bool:
        self.events.append((user_id, message))
        return user_id in self.sessions

    def device_state(self, user_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if user_id not in self.sessions:
            return None
        return {"isGlassesConnected": True, "isPhoneConnected": True, **changes}

    def configure_audio(self, user_id: str, format: str, lc3: Mapping[str, Any] | None) -> bool:
        self.told.append(("audio", user_id, format, lc3))
        return user_id in self.sessions

    def set_datetime(self, user_id: str, datetime: str) -> bool:
        self.told.append(("datetime", user_id, datetime))
        return user_id in self.sessions

    def photo_expected(self, user_id: str, request_id: str) -> bool:
        return (user_id, request_id) in self.expected

    def photo_uploaded(self, user_id: str, request_id: str, data: bytes, mime_type: str, url: str) -> bool:
        self.told.append(("photo", user_id, request_id, len(data), mime_type, url))
        try:
            self.expected.remove((user_id, request_id))
        except KeyError:
            return False
        return True

    def say(
        self, user_id: str, text: str, language: str, *, final: bool = True, utterance: str | None = None
    ) -> bool:
        self.told.append(("say", user_id, text, language, final))
        return user_id in self.sessions

    def push_app_settings(self, user_id: str, package_name: str) -> None:
        self.told.append(("app settings", user_id, package_name))

    def push_user_settings(self, user_id: str) -> None:
        self.told.append(("user settings", user_id))

    def apps_changed(self, user_id: str | None) -> None:
        self.told.append(("apps changed", user_id))

    def close_app(self, package_name: str, reason: str) -> None:
        self.told.append(("close app", package_name, reason))

    def app_server_restarted(self, package_name: str) -> int:
        self.told.append(("restarted", package_name))
        return 2

    def token_revoked(self, user_id: str, token_id: str) -> None:
        self.told.append(("revoked", user_id, token_id))

    def audio_stream(self, user_id: str, stream_id: str) -> AsyncIterator[bytes] | None:
        chunks = self.streams.get((user_id, stream_id))
        return None if chunks is None else _each(chunks)

    async def drain(self) -> None:
        self.draining = True


async def _each(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class HttpWorld:
    """The routes over an in-process transport; `as_user`, `as_app`, `as_admin` make headers."""

    def __init__(self, services: Services, hub: ScriptedHub, store: SqliteStore) -> None:
        self.services, self.hub, self.store = services, hub, store
        self.now = 1000.0
        services.monotonic = lambda: self.now
        services.admin_guesses = RateLimiter(
            rate=1, burst=10_000
        )  # walks of all routes show many wrong tokens
        transport = httpx.ASGITransport(app=build_http_app(services), client=("127.0.0.1", 50000))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://cloud.test")

    def as_user(self, user_id: str = ANNA) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.services.verifier.mint_core_token(user_id)}"}

    def as_app(self, package: str = APP, key: str = KEY) -> dict[str, str]:
        return {"Authorization": f"Bearer {package}:{key}"}

    def as_key(self, key: str = KEY) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def as_admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {ADMIN}"}

    async def get(self, path: str, headers: Mapping[str, str] | None = None, **kwargs: Any) -> httpx.Response:
        return await self.client.get(path, headers=headers, **kwargs)

    async def post(
        self, path: str, headers: Mapping[str, str] | None = None, json: Any = None, **kwargs: Any
    ) -> httpx.Response:
        return await self.client.post(path, headers=headers, json=json, **kwargs)

    async def put(
        self, path: str, headers: Mapping[str, str] | None = None, json: Any = None
    ) -> httpx.Response:
        return await self.client.put(path, headers=headers, json=json)

    async def delete(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.client.delete(path, headers=headers)


def record(package: str = APP, key: str = KEY, **changes: Any) -> AppRecord:
    fields: dict[str, Any] = {
        "package_name": package,
        "name": "Captions",
        "public_url": "http://127.0.0.1:9",
        "hashed_api_key": hash_api_key(key),
        "permissions": (Permission("MICROPHONE", "to hear"),),
        "settings": (
            {"type": "group", "title": "General"},
            {"key": "lang", "type": "select", "label": "Language", "defaultValue": "en"},
            {"key": "size", "type": "slider", "label": "Size", "defaultValue": 3},
        ),
        "tools": ({"id": "add", "description": "Adds"},),
    }
    return AppRecord(**(fields | changes))


@contextlib.asynccontextmanager
async def http_world(tmp_path: Path, overrides: Mapping[str, Any] | None = None) -> AsyncIterator[HttpWorld]:
    """Anna has installed APP; BEN is known; OTHER exists and nobody has it."""
    config = CloudConfig.load(
        None,
        {
            "data_dir": str(tmp_path),
            "auth.secret": SECRET,
            "auth.admin_token_sha256": hash_api_key(ADMIN),
            "public_url": "https://glass.example",
            **(overrides or {}),
        },
        env={},
    )
    store = await SqliteStore.open(tmp_path / "s.sqlite3")
    metrics, hub = Metrics(), ScriptedHub()
    webhooks = WebhookClient(DestinationPolicy(config.webhooks.allow))
    services = Services.make(
        config=config,
        store=store,
        hub=hub,
        verifier=TokenVerifier([SECRET]),
        metrics=metrics,
        webhooks=webhooks,
        loop_watch=LoopWatch(metrics),
    )
    world = HttpWorld(services, hub, store)
    await store.put_app(record())
    await store.put_app(record(OTHER, OTHER_KEY, name="Other"))
    await store.ensure_user(ANNA)
    await store.ensure_user(BEN)
    await store.install_app(ANNA, APP)
    try:
        yield world
    finally:
        await world.client.aclose()
        await webhooks.close()
        if services.synthesis is not None:
            await services.synthesis.close()
        await store.close()
