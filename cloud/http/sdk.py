"""What app servers and web views call over HTTP (wire spec 5 and 4.4): settings, storage, tokens, discovery, tools, speech.

Rules: an app is the one whose key was presented; it sees its own name space only, and only of users who have installed
it. A user or app that is not the caller's gets the same answer as one that does not exist.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

from cloud.auth import normal_user_id
from cloud.core.settings import app_settings
from cloud.http.manifest import permissions_json
from cloud.http.routing import JSON, Auth, Call, Refusal, RouteSpec, Shape, limit, now_text, user_in_body
from cloud.speech.tts import TEXT_MAX, SynthesisError
from cloud.store.records import AppRecord, Registration
from cloud.webhooks import WebhookError
from wire.errors import ErrorCode
from wire.messages.webhooks import tool_body

#: Wire spec 4.4.
TOOL_TIMEOUT: Final = 20.0
TOOL_PAUSE: Final = 1.0
#: An app server announces itself at start and every minute or so; more than a few dozen per package is a mistake.
REGISTRATIONS_MAX: Final = 32


async def public_permissions(call: Call) -> Response:
    record = await call.services.app(call.path("package"))
    if record is None:
        raise Refusal(404, "App not found")
    return JSON(
        {"success": True, "packageName": record.package_name, "permissions": permissions_json(record)}
    )


async def my_settings(call: Call) -> Response:
    """The SDK presents its session id here (wire spec 5.2), which is worth something only while the app runs."""
    record = call.record
    if call.path("package") != record.package_name:
        raise Refusal(404, "App not found")
    values = await call.services.store.get_app_settings(call.user_id, record.package_name)
    entries = app_settings(record.settings, values)
    return JSON({"success": True, "settings": entries})


# -------------------------------------------------------------------------------------------------- simple storage


async def _storage_user(call: Call) -> str:
    """The user in the path, if this app may keep data for them; counts against the app's rate for that user."""
    user_id = normal_user_id(call.path("user_id"))
    package = call.record.package_name
    if user_id is None or not await _knows(call, user_id):
        raise Refusal(404, "User not found", code=ErrorCode.NOT_FOUND)
    limit(call, call.services.storage, f"{package} {user_id}")
    return user_id


async def _knows(call: Call, user_id: str) -> bool:
    """Whether the user has the app installed, or uses it right now."""
    if any(one.user_id == user_id for one in call.services.hub.users_of(call.record.package_name)):
        return True
    if await call.services.store.get_user(user_id) is None:
        return False
    return await call.services.has_app(user_id, call.record)


async def storage_all(call: Call) -> Response:
    user_id = await _storage_user(call)
    return JSON(
        {"success": True, "data": await call.services.store.storage_all(user_id, call.record.package_name)}
    )


async def storage_put(call: Call) -> Response:
    user_id = await _storage_user(call)
    data = (await call.json()).get("data")
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise Refusal(400, "data must be an object of strings", code=ErrorCode.MALFORMED_MESSAGE)
    await call.services.store.storage_put(user_id, call.record.package_name, data)
    return JSON({"success": True})


async def storage_clear(call: Call) -> Response:
    user_id = await _storage_user(call)
    await call.services.store.storage_clear(user_id, call.record.package_name)
    return JSON({"success": True})


async def storage_get(call: Call) -> Response:
    user_id = await _storage_user(call)
    value = await call.services.store.storage_get(user_id, call.record.package_name, call.path("key"))
    if value is None:
        raise Refusal(404, "Key not found", body={"success": False, "error": "Key not found"})
    return JSON({"success": True, "data": value})


async def storage_set(call: Call) -> Response:
    user_id = await _storage_user(call)
    value = (await call.json()).get("value")
    if not isinstance(value, str):
        raise Refusal(400, "value must be a string", code=ErrorCode.MALFORMED_MESSAGE)
    await call.services.store.storage_put(user_id, call.record.package_name, {call.path("key"): value})
    return JSON({"success": True})


async def storage_delete(call: Call) -> Response:
    user_id = await _storage_user(call)
    if not await call.services.store.storage_delete(user_id, call.record.package_name, call.path("key")):
        raise Refusal(404, "Key not found", body={"success": False, "error": "Key not found"})
    return JSON({"success": True, "message": "Deleted"})


# -------------------------------------------------------------------------------------------------- web views, discovery


async def exchange_user_token(call: Call) -> Response:
    token = (await call.json()).get("aos_temp_token")
    if not isinstance(token, str) or not token:
        raise Refusal(400, "Missing aos_temp_token")
    services = call.services
    package, now = call.record.package_name, services.monotonic()
    if services.shared_webview_tokens is not None:
        user_id = await services.shared_webview_tokens.redeem(token, package, now)
    else:
        user_id = services.webview_tokens.redeem(token, package, now)
    if user_id is None:
        raise Refusal(401, "Invalid or expired token")
    return JSON({"success": True, "userId": user_id})


async def discover_users(call: Call) -> Response:
    """Who else uses this app now. The asking user must use it too."""
    body = await call.json()
    user_id = normal_user_id(body.get("userId"))
    present = call.services.hub.users_of(call.record.package_name)
    if user_id is None or not any(one.user_id == user_id for one in present):
        raise Refusal(404, "No active session found for user")
    with_profiles = body.get("includeUserProfiles") is True
    users = []
    for one in present:
        if one.user_id == user_id:
            continue
        entry: dict[str, Any] = {
            "userId": one.user_id,
            "sessionId": one.user_id,
            "joinedAt": _iso(one.joined_at),
        }
        if with_profiles:
            known = await call.services.store.get_user(one.user_id)
            entry["userProfile"] = {
                "userId": one.user_id,
                "displayName": (known.display_name if known else None) or one.user_id,
                "lastActive": now_text(),
            }
        users.append(entry)
    return JSON({"users": users, "totalUsers": len(users), "timestamp": now_text()})


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -------------------------------------------------------------------------------------------------- registrations


async def register_server(call: Call) -> Response:
    """An app server says where it is; the newest registrations of a package are kept."""
    body = await call.json()
    url = body.get("webhookUrl", call.record.public_url + "/webhook")
    servers = body.get("serverUrls", [])
    if isinstance(servers, str):
        servers = [part.strip() for part in servers.split(",") if part.strip()]
    if (
        not isinstance(url, str)
        or not isinstance(servers, list)
        or len(servers) > 16
        or not all(
            isinstance(one, str) and re.fullmatch(r"https?://\S{1,2000}", one) for one in [url, *servers]
        )
    ):
        raise Refusal(400, "webhookUrl and serverUrls must be http(s) URLs", code=ErrorCode.MALFORMED_MESSAGE)
    store, now = call.services.store, time.time()
    registration = Registration(uuid.uuid4().hex, call.record.package_name, url, tuple(servers), now, now)
    old = sorted(await store.list_registrations(call.record.package_name), key=lambda one: one.last_seen_at)
    for surplus in old[: max(0, len(old) + 1 - REGISTRATIONS_MAX)]:
        await store.delete_registration(surplus.registration_id)
    await store.put_registration(registration)
    recovered = call.services.hub.app_server_restarted(call.record.package_name)
    return JSON(
        {"success": True, "registrationId": registration.registration_id, "recoveredSessions": recovered}
    )


async def _my_registration(call: Call, registration_id: object) -> Registration:
    found = None
    if isinstance(registration_id, str):
        found = await call.services.store.get_registration(registration_id)
    if found is None or found.package_name != call.record.package_name:
        raise Refusal(404, "Registration not found", code=ErrorCode.NOT_FOUND)
    return found


async def heartbeat_server(call: Call) -> Response:
    found = await _my_registration(call, (await call.json()).get("registrationId"))
    await call.services.store.put_registration(
        Registration(
            found.registration_id,
            found.package_name,
            found.webhook_url,
            found.server_urls,
            found.created_at,
            time.time(),
        )
    )
    return JSON({"success": True, "activeSessions": len(call.services.hub.users_of(found.package_name))})


async def restart_server(call: Call) -> Response:
    """The app server has just started again: every user who wants the app gets it back without waiting for a timer."""
    found = await _my_registration(call, (await call.json()).get("registrationId"))
    return JSON(
        {"success": True, "recoveredSessions": call.services.hub.app_server_restarted(found.package_name)}
    )


async def unregister_server(call: Call) -> Response:
    found = await _my_registration(call, call.path("registration_id"))
    await call.services.store.delete_registration(found.registration_id)
    return JSON({"success": True})


# -------------------------------------------------------------------------------------------------- tools


async def run_tool(call: Call) -> Response:
    """An assistant runs a tool of an app for its user (wire spec 4.4)."""
    body = await call.json()
    tool_id, parameters = body.get("toolId"), body.get("toolParameters") or {}
    if not isinstance(tool_id, str) or not tool_id:
        raise _tool_refusal(400, "Missing required fields: toolId")
    if "userId" not in body:
        raise _tool_refusal(400, "Missing required fields: userId")
    if not isinstance(parameters, dict):
        raise _tool_refusal(400, "toolParameters must be an object")
    user_in_body(call, body["userId"])
    record = await _installed(call)
    if not any(tool.get("id") == tool_id for tool in record.tools):
        raise _tool_refusal(404, "Tool not found")
    payload = tool_body(tool_id, parameters, call.user_id, now_text())
    for attempt in (1, 2):
        result = await call.services.webhooks.post(
            record.public_url + "/tool",
            payload,
            timeout=TOOL_TIMEOUT,
            headers={"X-App-API-Key": record.hashed_api_key},
            signing_key=record.hashed_api_key,
        )
        # Only what never reached the app may be said twice: a tool can have effects.
        if result.error not in (WebhookError.CONNECT, WebhookError.DNS) or attempt == 2:
            break
        await asyncio.sleep(TOOL_PAUSE)
    if result.status is not None and result.body is not None:
        return JSON(result.body, result.status if result.status >= 200 else 502)
    raise _tool_refusal(500, f"Webhook failed: {result.error or 'no answer'}")


def _tool_refusal(status: int, message: str) -> Refusal:
    return Refusal(status, message, body={"error": True, "message": message, "details": {}})


async def _installed(call: Call) -> AppRecord:
    record = await call.services.app(call.path("package"))
    if record is None or not await call.services.has_app(call.user_id, record):
        raise _tool_refusal(404, "App not found")
    return record


async def tools_of_app(call: Call) -> Response:
    return JSON((await _installed(call)).tools)


async def tools_of_user(call: Call) -> Response:
    user_in_body(call, call.path("user_id"))
    installed = set(await call.services.store.get_installed_apps(call.user_id))
    return JSON(
        [
            {**tool, "appPackageName": record.package_name}
            for record in await call.services.store.list_apps()
            if record.preinstalled or record.package_name in installed
            for tool in record.tools
        ]
    )


# -------------------------------------------------------------------------------------------------- speech and audio


async def text_to_speech(call: Call) -> Response:
    """Fetched by the phone for an app's `speak()`, without a credential, so it is limited by address."""
    text = call.query("text")
    if not text or not text.strip():
        raise Refusal(400, "text is required")
    if len(text) > TEXT_MAX:
        raise Refusal(413, f"text is longer than {TEXT_MAX} characters", code=ErrorCode.TOO_LARGE)
    synthesis = call.services.synthesis
    if synthesis is None:
        raise Refusal(
            501,
            "text to speech is not configured on this cloud; set speech.tts_url to an OpenAI-compatible endpoint",
            code=ErrorCode.UNSUPPORTED,
        )
    limit(call, call.services.utterances, f"address {call.address}")
    try:
        chunks = await synthesis.speak(text, voice=call.query("voice_id"), model=call.query("model_id"))
    except SynthesisError as error:
        raise Refusal(502, str(error), code=ErrorCode.APP_UNREACHABLE) from error
    return StreamingResponse(chunks, media_type="audio/mpeg", headers={"Cache-Control": "no-store"})


async def audio_stream(call: Call) -> Response:
    """MP3 that an app is sending (SDK 3.0); the 36-character stream id is the secret."""
    user_id = normal_user_id(call.path("user_id"))
    stream_id = call.path("stream_id")
    chunks = call.services.hub.audio_stream(user_id, stream_id.lower()) if user_id else None
    if chunks is None:
        raise Refusal(404, "Stream not found", code=ErrorCode.NOT_FOUND)
    return StreamingResponse(chunks, media_type="audio/mpeg", headers={"Cache-Control": "no-store"})


# -------------------------------------------------------------------------------------------------- the table

_STORE = "/api/sdk/simple-storage/{user_id}"
_S = Shape.SUCCESS_ERROR

TABLE: Final[list[RouteSpec]] = [
    RouteSpec("GET", "/api/public/permissions/{package}", public_permissions, Auth.PUBLIC),
    *(
        RouteSpec("GET", f"/{prefix}/user/{{package}}", my_settings, Auth.APP_SESSION)
        for prefix in ("appsettings", "tpasettings")
    ),
    RouteSpec("GET", _STORE, storage_all, Auth.APP),
    RouteSpec("PUT", _STORE, storage_put, Auth.APP),
    RouteSpec("DELETE", _STORE, storage_clear, Auth.APP),
    RouteSpec("GET", _STORE + "/{key:path}", storage_get, Auth.APP),
    RouteSpec("PUT", _STORE + "/{key:path}", storage_set, Auth.APP),
    RouteSpec("DELETE", _STORE + "/{key:path}", storage_delete, Auth.APP),
    *(
        RouteSpec("POST", f"{prefix}/exchange-user-token", exchange_user_token, Auth.APP_KEY, _S)
        for prefix in ("/api/auth", "/auth")
    ),
    *(
        RouteSpec("POST", f"/api/{name}/discover-users", discover_users, Auth.APP_KEY)
        for name in ("app-communication", "tpa-communication")
    ),
    *(
        spec
        for name in ("app-server", "tpa-server")
        for spec in (
            RouteSpec("POST", f"/api/{name}/register", register_server, Auth.APP, _S),
            RouteSpec("POST", f"/api/{name}/heartbeat", heartbeat_server, Auth.APP, _S),
            RouteSpec("POST", f"/api/{name}/restart", restart_server, Auth.APP, _S),
            RouteSpec(
                "DELETE", f"/api/{name}/unregister/{{registration_id}}", unregister_server, Auth.APP, _S
            ),
        )
    ),
    RouteSpec("POST", "/api/tools/apps/{package}/tool", run_tool, Auth.USER),
    RouteSpec("GET", "/api/tools/apps/{package}/tools", tools_of_app, Auth.USER),
    RouteSpec("GET", "/api/tools/users/{user_id}/tools", tools_of_user, Auth.USER),
    RouteSpec("GET", "/api/tts", text_to_speech, Auth.PUBLIC, Shape.MESSAGE),
    RouteSpec("GET", "/api/audio/tts", text_to_speech, Auth.PUBLIC, Shape.MESSAGE),
    RouteSpec("GET", "/api/audio/stream/{user_id}/{stream_id}", audio_stream, Auth.PUBLIC),
]
