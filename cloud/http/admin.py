"""What operators call: sessions, app records, users, tokens, the event trace, drain.

Rules: every route wants the admin token (or a program on this machine, in `dev`). A key or token is shown once, in the
answer that made it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from typing import Any, Final

from starlette.background import BackgroundTask
from starlette.responses import Response

from cloud.auth import hash_api_key, new_api_key, normal_user_id
from cloud.core.settings import settings_page
from cloud.http import overview
from cloud.http.accounts import forget_account
from cloud.http.manifest import for_admin, parse_manifest
from cloud.http.ports import AppOutcome
from cloud.http.routing import JSON, Auth, Call, Refusal, RouteSpec
from cloud.store.records import AppRecord, TokenRecord
from wire.errors import ErrorCode

#: A long poll of the trace answers at the latest then, so that proxies keep the connection.
TRACE_WAIT_MAX: Final = 25.0
TRACE_POLL: Final = 0.1


# -------------------------------------------------------------------------------------------------- sessions


async def sessions(call: Call) -> Response:
    """A page of the sessions of all nodes, by user id: those after `after` whose id holds `search`."""
    try:
        limit = int(call.query("limit") or overview.PAGE_MAX)
    except ValueError:
        raise Refusal(400, "limit must be a number", code=ErrorCode.MALFORMED_MESSAGE) from None
    search = (call.query("search") or "").lower()
    return JSON(await overview.sessions(call.services, search, call.query("after") or "", limit))


async def session_trace(call: Call) -> Response:
    """What the nodes keep of this user's events, oldest first."""
    return JSON(await overview.trace(call.services, _user(call.path("user"))))


async def nodes(call: Call) -> Response:
    """How every node is, and which did not answer."""
    return JSON(await overview.health(call.services))


async def session(call: Call) -> Response:
    view = call.services.hub.session_view(_user(call.path("user")))
    if view is None:
        raise Refusal(404, "this user has no session", code=ErrorCode.SESSION_NOT_FOUND)
    return JSON(view)


async def end_session(call: Call) -> Response:
    ended = await call.services.hub.end_session(_user(call.path("user")), "ended by the administrator")
    if not ended:
        raise Refusal(404, "this user has no session", code=ErrorCode.SESSION_NOT_FOUND)
    return JSON({"ended": True})


async def start(call: Call) -> Response:
    hub = call.services.hub
    return _outcome(await hub.start_app(_user(call.path("user")), call.path("package")))


async def stop(call: Call) -> Response:
    hub = call.services.hub
    return _outcome(await hub.stop_app(_user(call.path("user")), call.path("package")))


def _outcome(outcome: AppOutcome) -> Response:
    if outcome.ok:
        return JSON({"ok": True})
    missing = (ErrorCode.SESSION_NOT_FOUND, ErrorCode.NOT_FOUND, ErrorCode.PACKAGE_NOT_FOUND)
    raise Refusal(404 if outcome.code in missing else 502, outcome.message, code=outcome.code)


async def say(call: Call) -> Response:
    """Typed words become a transcript in a session (speech provider `text`)."""
    body = await call.json()
    text = body.get("text")
    if not isinstance(text, str) or not 0 < len(text) <= 10_000:
        raise Refusal(400, "text: 1 to 10000 characters are required", code=ErrorCode.MALFORMED_MESSAGE)
    language = body.get("language", "en-US")
    if not isinstance(language, str) or not 0 < len(language) <= 16:
        raise Refusal(400, "language must be a tag such as en-US", code=ErrorCode.MALFORMED_MESSAGE)
    final = body.get("final", True) is not False
    if not call.services.hub.say(_user(call.path("user")), text, language, final=final):
        raise Refusal(409, "this user has no session that listens", code=ErrorCode.SESSION_NOT_FOUND)
    return JSON({"said": True})


def _user(value: object) -> str:
    user_id = normal_user_id(value)
    if user_id is None:
        raise Refusal(400, "user: an e-mail address is required", code=ErrorCode.MALFORMED_MESSAGE)
    return user_id


async def trace(call: Call) -> Response:
    """Event records after `since`; with `wait` (seconds) the answer waits for the first new one."""
    try:
        since = int(call.query("since") or 0)
        wait = min(float(call.query("wait") or 0.0), TRACE_WAIT_MAX)
    except ValueError:
        raise Refusal(400, "since and wait must be numbers", code=ErrorCode.MALFORMED_MESSAGE) from None
    hub, loop = call.services.hub, asyncio.get_running_loop()
    end = loop.time() + wait
    while True:
        records = hub.trace(since)
        if records or loop.time() >= end or hub.draining:
            return JSON({"events": records})
        await asyncio.sleep(TRACE_POLL)


async def replay_event(call: Call) -> Response:
    """Send a kept event of the glasses (kind `from_glasses`) through its session once more."""
    seq = call.path("seq")
    if not seq.isdigit() or not call.services.hub.replay(int(seq)):
        raise Refusal(
            409,
            "this event cannot be sent again: only the last events of live sessions are kept, and only while somebody"
            " watches the trace",
            code=ErrorCode.NOT_FOUND,
        )
    return JSON({"replayed": int(seq)})


# -------------------------------------------------------------------------------------------------- apps


async def list_apps(call: Call) -> Response:
    return JSON({"apps": [for_admin(record) for record in await call.services.store.list_apps()]})


async def get_app(call: Call) -> Response:
    return JSON({"app": for_admin(await _record(call))})


async def _record(call: Call) -> AppRecord:
    record = await call.services.store.get_app(call.path("package"))
    if record is None:
        raise Refusal(404, "there is no such app", code=ErrorCode.PACKAGE_NOT_FOUND)
    return record


async def put_app(call: Call) -> Response:
    """Create or replace an app record; `installFor` may list users, or `"all"` to install it for everybody."""
    body = await call.json()
    services = call.services
    install_for = body.get("installFor", [])
    if install_for == "all":
        body, install_for = body | {"preinstalled": True}, []
    if not isinstance(install_for, list):
        raise Refusal(400, 'installFor must be a list of users or "all"', code=ErrorCode.MALFORMED_MESSAGE)
    users = [_user(one) for one in install_for]
    manifest = parse_manifest(body)
    old = await services.store.get_app(manifest.package_name)
    record, fresh_key = manifest.record(old)
    stored = await services.store.put_app(record)
    for user_id in users:
        await services.store.ensure_user(user_id)
        await services.store.install_app(user_id, record.package_name)
    if old is not None and old.hashed_api_key != record.hashed_api_key:
        services.hub.close_app(record.package_name, "API key changed")
    services.hub.apps_changed(None)
    answer: dict[str, Any] = {"app": for_admin(stored)}
    if fresh_key is not None:
        answer["apiKey"] = fresh_key
    problem = await services.webhooks.refusal(record.public_url)
    if problem is not None:
        answer["warnings"] = [
            f"webhooks to {record.public_url} will be refused ({problem});"
            " a private address must be listed in webhooks.allow as host:port"
        ]
    return JSON(answer, 200 if old else 201)


async def delete_app(call: Call) -> Response:
    record = await _record(call)
    call.services.hub.close_app(record.package_name, "App removed")
    await call.services.store.delete_app(record.package_name)
    call.services.hub.apps_changed(None)
    return JSON({"deleted": record.package_name})


async def rotate_key(call: Call) -> Response:
    record = await _record(call)
    key = new_api_key()
    await call.services.store.put_app(replace(record, hashed_api_key=hash_api_key(key)))
    call.services.hub.close_app(record.package_name, "API key changed")
    return JSON({"packageName": record.package_name, "apiKey": key})


async def webhooks(call: Call) -> Response:
    """The last webhooks to an app with their replies, oldest first."""
    record = await _record(call)
    return JSON({"webhooks": call.services.hub.webhooks_of(record.package_name)})


async def replay_webhook(call: Call) -> Response:
    """Send a kept webhook once more; the answer holds the app's new reply."""
    record = await _record(call)
    number = call.path("number")
    hub = call.services.hub
    kept = {str(one["id"]): one for one in hub.webhooks_of(record.package_name)}.get(number)
    if kept is None:
        raise Refusal(404, "this webhook is no longer kept", code=ErrorCode.NOT_FOUND)
    user = normal_user_id(kept["user"])
    if kept["request"].get("type") == "session_request" and (user is None or hub.session_view(user) is None):
        raise Refusal(
            409,
            "this user has no session now, so the app would be turned away; connect the glasses first",
            code=ErrorCode.SESSION_NOT_FOUND,
        )
    return JSON({"webhook": await hub.replay_webhook(record.package_name, int(number))})


async def app_settings_of(call: Call) -> Response:
    """A user's settings of an app: the schema, each entry with the value `selected`."""
    record, user_id = await _record(call), _user(call.path("user"))
    values = await call.services.store.get_app_settings(user_id, record.package_name)
    return JSON({"settings": settings_page(record.settings, values)})


async def put_app_settings_of(call: Call) -> Response:
    """Change a user's settings of an app; a running app is told."""
    record, user_id = await _record(call), _user(call.path("user"))
    changes = (await call.json()).get("values")
    known = {entry.get("key") for entry in record.settings}
    if not isinstance(changes, dict) or not changes.keys() <= known:
        raise Refusal(
            400, "values: keys of the app's settings are required", code=ErrorCode.MALFORMED_MESSAGE
        )
    values = await call.services.store.put_app_settings(user_id, record.package_name, changes)
    call.services.hub.push_app_settings(user_id, record.package_name)
    return JSON({"settings": settings_page(record.settings, values)})


async def registrations(call: Call) -> Response:
    found = await call.services.store.list_registrations(call.query("package"))
    return JSON(
        {
            "registrations": [
                {
                    "registrationId": one.registration_id,
                    "packageName": one.package_name,
                    "webhookUrl": one.webhook_url,
                    "serverUrls": one.server_urls,
                    "createdAt": one.created_at,
                    "lastSeenAt": one.last_seen_at,
                    "activeSessions": len(call.services.hub.users_of(one.package_name)),
                }
                for one in found
            ]
        }
    )


# -------------------------------------------------------------------------------------------------- users and tokens


async def users(call: Call) -> Response:
    return JSON({"users": await call.services.store.list_users()})


async def add_user(call: Call) -> Response:
    body = await call.json()
    name = body.get("displayName")
    if name is not None and (not isinstance(name, str) or len(name) > 200):
        raise Refusal(400, "displayName must be a short text", code=ErrorCode.MALFORMED_MESSAGE)
    user_id = _user(body.get("user"))
    new = await call.services.store.get_user(user_id) is None
    record = await call.services.store.ensure_user(user_id, name)
    return JSON({"user": record}, 201 if new else 200)


async def delete_user(call: Call) -> Response:
    user_id = _user(call.path("user"))
    if not await forget_account(call.services, user_id, "account removed"):
        raise Refusal(404, "there is no such user", code=ErrorCode.NOT_FOUND)
    return JSON({"deleted": user_id})


async def add_token(call: Call) -> Response:
    """A core token for a user, who is made if need be. `ttl` in seconds; without it the configured lifetime."""
    body = await call.json()
    user_id = _user(body.get("user"))
    ttl = body.get("ttl", call.services.config.auth.token_ttl)
    if ttl is not None and (
        not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or not 1 <= ttl <= 10**9
    ):
        raise Refusal(400, "ttl must be a number of seconds", code=ErrorCode.MALFORMED_MESSAGE)
    label = body.get("label", "")
    if not isinstance(label, str) or len(label) > 200:
        raise Refusal(400, "label must be a short text", code=ErrorCode.MALFORMED_MESSAGE)
    services, now = call.services, time.time()
    await services.store.ensure_user(user_id)
    token_id = uuid.uuid4().hex
    record = TokenRecord(token_id, user_id, label, now, now + ttl if ttl is not None else None, None)
    await services.store.put_token(record)
    token = services.verifier.mint_core_token(user_id, ttl, token_id=token_id)
    return JSON({"token": token, "tokenId": token_id, "user": user_id, "expiresAt": record.expires_at}, 201)


async def tokens(call: Call) -> Response:
    user = call.query("user")
    return JSON({"tokens": await call.services.store.list_tokens(_user(user) if user else None)})


async def revoke_token(call: Call) -> Response:
    token_id = call.path("token_id")
    found = [one for one in await call.services.store.list_tokens() if one.token_id == token_id]
    if not found or not await call.services.store.revoke_token(token_id):
        raise Refusal(404, "there is no such token", code=ErrorCode.NOT_FOUND)
    call.services.verifier.revoked.add(token_id)
    call.services.hub.token_revoked(found[0].user_id, token_id)
    return JSON({"revoked": token_id})


# -------------------------------------------------------------------------------------------------- the process


async def drain(call: Call) -> Response:
    """Answers first, then closes everything with 'come back'."""
    if call.services.siblings is not None:
        call.services.siblings.drain()
        return JSON({"draining": True}, 202)
    return JSON({"draining": True}, 202, background=BackgroundTask(call.services.hub.drain))


async def speech(call: Call) -> Response:
    """Who recognises speech, where audio goes, and how that goes; `where` is null if it goes nowhere."""
    service = call.services.speech
    if service is not None:
        return JSON(service.status())
    provider = call.services.config.speech.provider
    return JSON({"provider": provider, "where": None, "state": "off" if provider == "off" else "ok"})


async def configuration(call: Call) -> Response:
    return JSON({"settings": call.services.config.settings()})


_A = Auth.ADMIN

TABLE: Final[list[RouteSpec]] = [
    RouteSpec("GET", "/api/admin/sessions", sessions, _A),
    RouteSpec("GET", "/api/admin/sessions/{user}", session, _A),
    RouteSpec("DELETE", "/api/admin/sessions/{user}", end_session, _A),
    RouteSpec("GET", "/api/admin/sessions/{user}/trace", session_trace, _A),
    RouteSpec("POST", "/api/admin/sessions/{user}/apps/{package}/start", start, _A),
    RouteSpec("POST", "/api/admin/sessions/{user}/apps/{package}/stop", stop, _A),
    RouteSpec("POST", "/api/admin/sessions/{user}/say", say, _A),
    RouteSpec("GET", "/api/admin/trace", trace, _A),
    RouteSpec("POST", "/api/admin/trace/{seq}/replay", replay_event, _A),
    RouteSpec("GET", "/api/admin/apps", list_apps, _A),
    RouteSpec("POST", "/api/admin/apps", put_app, _A),
    RouteSpec("GET", "/api/admin/apps/{package}", get_app, _A),
    RouteSpec("DELETE", "/api/admin/apps/{package}", delete_app, _A),
    RouteSpec("POST", "/api/admin/apps/{package}/rotate-key", rotate_key, _A),
    RouteSpec("GET", "/api/admin/apps/{package}/webhooks", webhooks, _A),
    RouteSpec("POST", "/api/admin/apps/{package}/webhooks/{number}/replay", replay_webhook, _A),
    RouteSpec("GET", "/api/admin/apps/{package}/settings/{user}", app_settings_of, _A),
    RouteSpec("PUT", "/api/admin/apps/{package}/settings/{user}", put_app_settings_of, _A),
    RouteSpec("GET", "/api/admin/registrations", registrations, _A),
    RouteSpec("GET", "/api/admin/users", users, _A),
    RouteSpec("POST", "/api/admin/users", add_user, _A),
    RouteSpec("DELETE", "/api/admin/users/{user}", delete_user, _A),
    RouteSpec("GET", "/api/admin/tokens", tokens, _A),
    RouteSpec("POST", "/api/admin/tokens", add_token, _A),
    RouteSpec("DELETE", "/api/admin/tokens/{token_id}", revoke_token, _A),
    RouteSpec("POST", "/api/admin/drain", drain, _A),
    RouteSpec("GET", "/api/admin/nodes", nodes, _A),
    RouteSpec("GET", "/api/admin/speech", speech, _A),
    RouteSpec("GET", "/api/admin/config", configuration, _A),
]
