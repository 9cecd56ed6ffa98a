"""What phones call over HTTP (wire spec 2.7, 2.8 and 4.3): tokens, apps, settings, device state, events, photos.

Rules: the user is the one of the core token, never one named in a path or body. Bodies and status codes are Mentra's.
What a phone reports becomes the same typed message that it would have sent on its socket.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.responses import Response

from cloud.auth import AuthError, hash_with_api_key
from cloud.core.settings import app_settings, settings_page
from cloud.http.accounts import forget_account, forget_photo
from cloud.http.manifest import for_2025_phone, for_2026_phone
from cloud.http.ports import AppOutcome, AppView
from cloud.http.routing import JSON, Auth, Call, Refusal, RouteSpec, Shape, limit, now_text, user_in_body
from cloud.store.records import AppRecord, Location, PhotoRecord, TokenRecord
from wire.codec import load_object, validate
from wire.errors import ErrorCode
from wire.messages.glasses_to_cloud import GLASSES_TO_CLOUD, GlassesToCloud, LocationUpdate
from wire.messages.webhooks import settings_body

#: The settings webhook is a courtesy beside the socket push; its failure is ignored (wire spec 4.3).
SETTINGS_WEBHOOK_TIMEOUT: Final = 5.0
#: Calendars arrive whole; a year of a busy person fits.
CALENDAR_EVENTS_MAX: Final = 1000
#: Photos kept per user; the oldest goes when one more arrives.
PHOTOS_MAX: Final = 200
#: An ID token of another provider is exchanged for a core token of this lifetime, when none is configured.
OIDC_TOKEN_TTL: Final = 30 * 24 * 3600.0
#: First bytes of the pictures that glasses take; the name and the declared type of an upload prove nothing.
_IMAGES: Final = {
    b"\xff\xd8\xff": ("image/jpeg", ".jpg"),
    b"\x89PNG\r\n\x1a\n": ("image/png", ".png"),
    b"RIFF": ("image/webp", ".webp"),
}


# -------------------------------------------------------------------------------------------------- tokens


async def exchange_token(call: Call) -> Response:
    """A core token for a token that proves who the user is: a core token of ours, or an ID token of the OIDC issuer."""
    body = await call.json()
    given = next((body[name] for name in ("supabaseToken", "authingToken", "token") if body.get(name)), None)
    if given is None:
        raise Refusal(400, "No token provided")
    services = call.services
    try:
        if not isinstance(given, str):
            raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid token")
        try:
            identity = services.verifier.verify(given)
        except AuthError:
            if services.oidc is None:
                raise
            user_id = await services.oidc.verify(given)
            ttl = services.config.auth.token_ttl or OIDC_TOKEN_TTL
            token_id = uuid.uuid4().hex
            await services.store.ensure_user(user_id)
            now = time.time()
            await services.store.put_token(TokenRecord(token_id, user_id, "oidc", now, now + ttl, None))
            token = services.verifier.mint_core_token(user_id, ttl, token_id=token_id)
        else:
            # The new token keeps the id of the old one, so that revoking it ends both, and it lives no longer.
            ttl_left = None if identity.expires_at is None else max(1.0, identity.expires_at - time.time())
            await services.store.ensure_user(identity.user_id)
            token = services.verifier.mint_core_token(identity.user_id, ttl_left, token_id=identity.token_id)
    except AuthError:
        raise Refusal(401, "Invalid token") from None
    return JSON({"coreToken": token})


async def webview_token(call: Call) -> Response:
    record = await _body_app(call)
    services = call.services
    now = services.monotonic()
    if services.shared_webview_tokens is not None:
        token = await services.shared_webview_tokens.issue(call.user_id, record.package_name, now)
    else:
        token = services.webview_tokens.issue(call.user_id, record.package_name, now)
    return JSON({"success": True, "token": token})


async def signed_user_token(call: Call) -> Response:
    record = await _body_app(call)
    if call.services.signer is None:
        # Phones tolerate this and open the page with the temporary token alone (wire spec 2.8).
        raise Refusal(501, "signed user tokens are not configured", code=ErrorCode.UNSUPPORTED)
    token = call.services.signer.sign(call.user_id, record.hashed_api_key)
    return JSON({"success": True, "token": token, "expiresIn": "10m"})


async def hash_for_app(call: Call) -> Response:
    record = await _body_app(call)
    text = (await call.json()).get("stringToHash")
    if not isinstance(text, str) or not text or len(text) > 4096:
        raise Refusal(400, "stringToHash is required")
    return JSON({"success": True, "hash": hash_with_api_key(text, record.hashed_api_key)})


async def _body_app(call: Call) -> AppRecord:
    package = (await call.json()).get("packageName")
    if not isinstance(package, str) or not package:
        raise Refusal(400, "packageName is required")
    record = await call.services.app(package)
    if record is None:
        raise Refusal(404, "App not found")
    return record


# -------------------------------------------------------------------------------------------------- apps


def _views(call: Call) -> dict[str, AppView]:
    session = call.services.hub.session_view(call.user_id)
    return {view.package_name: view for view in session.apps} if session else {}


async def _my_records(call: Call) -> list[AppRecord]:
    installed = set(await call.services.store.get_installed_apps(call.user_id))
    return [
        record
        for record in await call.services.store.list_apps()
        if record.preinstalled or record.package_name in installed
    ]


async def apps_2025(call: Call) -> Response:
    views = _views(call)
    return JSON(
        {
            "success": True,
            "data": [
                for_2025_phone(record, views.get(record.package_name)) for record in await _my_records(call)
            ],
        }
    )


async def apps_2026(call: Call) -> Response:
    views = _views(call)
    data = [for_2026_phone(record, views.get(record.package_name)) for record in await _my_records(call)]
    return JSON({"success": True, "data": data, "timestamp": now_text()})


async def app_details(call: Call) -> Response:
    record = await _path_app(call)
    return JSON({"success": True, "data": for_2025_phone(record, _views(call).get(record.package_name))})


async def _path_app(call: Call) -> AppRecord:
    record = await call.services.app(call.path("package"))
    if record is None:
        raise Refusal(404, "App not found")
    return record


async def start_app(call: Call) -> Response:
    record = await _path_app(call)
    outcome = await call.services.hub.start_app(call.user_id, record.package_name)
    return _outcome(call, record, outcome, "started")


async def stop_app(call: Call) -> Response:
    record = await _path_app(call)
    outcome = await call.services.hub.stop_app(call.user_id, record.package_name)
    return _outcome(call, record, outcome, "stopped")


def _outcome(call: Call, record: AppRecord, outcome: AppOutcome, status: str) -> Response:
    match outcome.code:
        case None:
            views = _views(call).values()
            state = {
                "activeAppSessions": [view.package_name for view in views if view.running],
                "loadingApps": [
                    view.package_name for view in views if view.state in ("loading", "connecting")
                ],
            }
            return JSON(
                {
                    "success": True,
                    "data": {"status": status, "packageName": record.package_name, "appState": state},
                }
            )
        case ErrorCode.SESSION_NOT_FOUND | ErrorCode.NO_ACTIVE_SESSION:
            raise Refusal(401, "No active session found", code=ErrorCode.NO_ACTIVE_SESSION)
        case ErrorCode.NOT_FOUND | ErrorCode.PACKAGE_NOT_FOUND:
            raise Refusal(404, "App not found", code=outcome.code)
        case ErrorCode.APP_INCOMPATIBLE | ErrorCode.PERMISSION_DENIED:
            raise Refusal(403, outcome.message, code=outcome.code)
        case ErrorCode.OVERLOADED | ErrorCode.DRAINING | ErrorCode.GLASSES_DISCONNECTED:
            raise Refusal(503, outcome.message, code=outcome.code, headers={"Retry-After": "2"})
        case ErrorCode.TIMEOUT:
            raise Refusal(504, outcome.message, code=outcome.code)
        case _:
            raise Refusal(502, outcome.message or "app could not be started", code=outcome.code)


async def install_app(call: Call) -> Response:
    record = await _path_app(call)
    await call.services.store.ensure_user(call.user_id)
    await call.services.store.install_app(call.user_id, record.package_name)
    call.services.hub.apps_changed(call.user_id)
    return JSON({"success": True, "message": f"App {record.package_name} installed successfully"})


async def uninstall_app(call: Call) -> Response:
    record = await _path_app(call)
    if record.preinstalled or not record.uninstallable:
        raise Refusal(400, "This app cannot be uninstalled")
    await call.services.hub.stop_app(call.user_id, record.package_name)
    if not await call.services.store.uninstall_app(call.user_id, record.package_name):
        raise Refusal(400, "App is not installed")
    call.services.hub.apps_changed(call.user_id)
    return JSON({"success": True, "message": f"App {record.package_name} uninstalled successfully"})


async def app_is_healthy(call: Call) -> Response:
    """Whether the user's app may be used; a phone greys out what answers false."""
    package = (await call.json()).get("packageName")
    view = _views(call).get(package) if isinstance(package, str) else None
    return JSON({"success": view is None or view.last_error is None})


# -------------------------------------------------------------------------------------------------- app settings


async def get_app_settings(call: Call) -> Response:
    record = await _path_app(call)
    values = await call.services.store.get_app_settings(call.user_id, record.package_name)
    return JSON(
        {
            "success": True,
            "userId": call.user_id,
            "name": record.name,
            "description": record.description,
            "uninstallable": record.uninstallable,
            "webviewURL": record.webview_url,
            "version": record.version,
            "settings": settings_page(record.settings, values),
            "permissions": [
                {"type": entry.type, "description": entry.description} for entry in record.permissions
            ],
            "organization": record.organization,
        }
    )


async def put_app_settings(call: Call) -> Response:
    record = await _path_app(call)
    body = await call.json_or_list()
    changes: dict[str, Any] = {}
    for entry in body if isinstance(body, list) else [body]:
        key = entry.get("key")
        if not isinstance(key, str) or not key or "value" not in entry:
            raise Refusal(400, "each setting needs a key and a value", code=ErrorCode.MALFORMED_MESSAGE)
        changes[key] = entry["value"]
    services = call.services
    values = await services.store.put_app_settings(call.user_id, record.package_name, changes)
    services.hub.push_app_settings(call.user_id, record.package_name)
    running = _views(call).get(record.package_name)
    tell = None
    if running is not None and running.running:
        merged = app_settings(record.settings, values)
        payload = settings_body(
            call.user_id, [{"key": entry["key"], "value": entry["value"]} for entry in merged]
        )
        tell = BackgroundTask(
            services.webhooks.post,
            record.public_url + "/settings",
            payload,
            timeout=SETTINGS_WEBHOOK_TIMEOUT,
            signing_key=record.hashed_api_key,
        )
    return JSON({"success": True, "message": "Settings updated successfully"}, background=tell)


# -------------------------------------------------------------------------------------------------- phone settings


async def get_phone_settings(call: Call) -> Response:
    settings = await call.services.store.get_phone_settings(call.user_id)
    return JSON({"success": True, "data": {"settings": settings}})


#: Keys of the phone's own settings that apps see as system settings, and their names there (wire spec 2.6, 2.7).
_SYSTEM_KEYS: Final = {
    "metric_system": "metricSystemEnabled",
    "contextual_dashboard": "contextualDashboard",
    "head_up_angle": "headUpAngle",
    "brightness": "brightness",
    "auto_brightness": "autoBrightness",
    "sensing_enabled": "sensingEnabled",
    "always_on_status_bar": "alwaysOnStatusBar",
    "bypass_vad_for_debugging": "bypassVad",
    "bypass_audio_encoding_for_debugging": "bypassAudioEncoding",
    "preferred_mic": "preferredMic",
    "dashboard_height": "dashboard_height",
    "dashboard_depth": "dashboard_depth",
    "time_zone": "userTimezone",
}


async def put_phone_settings(call: Call) -> Response:
    body = await call.json()
    settings = body.get("settings", body)
    if not isinstance(settings, dict):
        raise Refusal(400, "settings must be an object", code=ErrorCode.MALFORMED_MESSAGE)
    # The phone keeps its credential in the same map; it has no business in our database.
    kept = {key: value for key, value in settings.items() if key != "core_token"}
    store, hub = call.services.store, call.services.hub
    await store.ensure_user(call.user_id)
    await store.update_phone_settings(call.user_id, kept)
    system = {_SYSTEM_KEYS[key]: value for key, value in kept.items() if key in _SYSTEM_KEYS}
    if system:
        await store.update_user_settings(call.user_id, system)
        hub.push_user_settings(call.user_id)
    return JSON({"success": True})


async def delete_phone_settings(call: Call) -> Response:
    await call.services.store.delete_phone_settings(call.user_id)
    return JSON({"success": True})


# -------------------------------------------------------------------------------------------------- what the phone reports


def _no_session() -> Refusal:
    # 2026 phones reconnect their socket on this very body and try again (wire spec 1.7).
    return Refusal(503, "NO_ACTIVE_SESSION", body={"error": "NO_ACTIVE_SESSION"})


def _report(call: Call, payload: Mapping[str, Any]) -> GlassesToCloud:
    """Hand the session what the phone would have said on its socket. Raises Refusal, ProtocolError."""
    message = validate(GLASSES_TO_CLOUD, dict(payload))
    assert isinstance(message, GlassesToCloud), "routes name types that exist"
    if not call.services.hub.phone_event(call.user_id, message):
        raise _no_session()
    return message


async def device_state(call: Call) -> Response:
    limit(call, call.services.device_states, call.user_id)
    applied = call.services.hub.device_state(call.user_id, await call.json())
    if applied is None:
        raise _no_session()
    return JSON({"success": True, "appliedState": applied, "timestamp": now_text()})


async def calendar(call: Call) -> Response:
    body = await call.json()
    events = body.get("events", [body] if "eventId" in body else None)
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise Refusal(400, "events must be an array of objects", code=ErrorCode.MALFORMED_MESSAGE)
    if len(events) > CALENDAR_EVENTS_MAX:
        raise Refusal(413, f"more than {CALENDAR_EVENTS_MAX} events", code=ErrorCode.TOO_LARGE)
    for event in events:
        _report(call, event | {"type": "calendar_event"})
    return JSON({"success": True})


def _fix(body: Mapping[str, Any]) -> dict[str, Any]:
    """The position in `{"location": …}`, `{"coords": …}` or a flat body."""
    fix = body.get("location") or body.get("coords") or body
    if isinstance(fix, dict) and isinstance(fix.get("coords"), dict):
        fix = fix["coords"]
    if not isinstance(fix, dict):
        raise Refusal(400, "location must be an object", code=ErrorCode.MALFORMED_MESSAGE)
    return {
        "type": "location_update",
        "lat": fix.get("lat", fix.get("latitude")),
        "lng": fix.get("lng", fix.get("longitude")),
        "accuracy": fix.get("accuracy"),
    }


async def location(call: Call) -> Response:
    fix = _report(call, _fix(await call.json()))
    assert isinstance(fix, LocationUpdate)
    await call.services.store.put_location(
        call.user_id, Location(fix.lat, fix.lng, fix.accuracy, time.time())
    )
    return JSON({"success": True})


async def location_poll(call: Call) -> Response:
    _report(call, _fix(await call.json()) | {"correlationId": call.path("correlation_id")})
    return JSON({"success": True})


async def notification(call: Call) -> Response:
    _report(call, (await call.json()) | {"type": "phone_notification"})
    return JSON({"success": True})


async def notification_dismissed(call: Call) -> Response:
    _report(call, (await call.json()) | {"type": "phone_notification_dismissed"})
    return JSON({"success": True})


async def photo_response(call: Call) -> Response:
    _report(call, (await call.json()) | {"type": "photo_response"})
    return JSON({"success": True})


async def configure_audio(call: Call) -> Response:
    body = await call.json()
    form, lc3 = body.get("format"), body.get("lc3Config")
    if form not in ("pcm", "lc3"):
        raise Refusal(400, "format must be pcm or lc3", code=ErrorCode.MALFORMED_MESSAGE)
    if form == "lc3":
        lc3 = lc3 if isinstance(lc3, dict) else {}
        lc3 = {
            "sampleRate": lc3.get("sampleRate", 16000),
            "frameDurationMs": lc3.get("frameDurationMs", 10),
            "frameSizeBytes": lc3.get("frameSizeBytes", 20),
        }
        if (
            lc3["sampleRate"] != 16000
            or lc3["frameDurationMs"] != 10
            or lc3["frameSizeBytes"] not in (20, 40, 60)
        ):
            raise Refusal(
                400,
                "lc3Config must be 16000 Hz, 10 ms, 20, 40 or 60 bytes a frame",
                code=ErrorCode.UNSUPPORTED,
            )
    if not call.services.hub.configure_audio(call.user_id, form, lc3 if form == "lc3" else None):
        raise _no_session()
    return JSON({"success": True})


async def set_datetime(call: Call) -> Response:
    """2025 phones call this each minute without a token; they are known by the address of their open socket."""
    body = await call.json()
    user_id, text = body.get("userId"), body.get("datetime")
    if not isinstance(user_id, str) or not isinstance(text, str) or not 0 < len(text) <= 64:
        raise Refusal(400, "userId and datetime are required")
    user_id = user_id.strip().lower()
    if call.user_id:
        user_in_body(call, user_id)
    else:
        session = call.services.hub.session_view(user_id)
        if session is None or not session.connected or session.remote != call.address:
            raise Refusal(404, "User not found")
    if not call.services.hub.set_datetime(user_id, text):
        raise Refusal(404, "User not found")
    return JSON({"success": True, "userId": user_id, "datetime": text})


async def goodbye(call: Call) -> Response:
    await call.services.hub.end_session(call.user_id, "logged out")
    return JSON({"success": True})


# -------------------------------------------------------------------------------------------------- photos


async def upload_photo(call: Call) -> Response:
    """Glasses upload a photo that an app of this user asked for: once, an image, kept and passed on to the app."""
    request = call.request
    maximum = call.services.config.limits.photo_bytes_max
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > maximum + 65536:  # room for the form around the picture
        raise Refusal(413, f"photo is larger than {maximum} bytes", code=ErrorCode.TOO_LARGE)
    try:
        async with (
            asyncio.timeout(60.0),
            request.form(max_files=1, max_fields=8, max_part_size=65536) as form,
        ):
            file, metadata = form.get("file") or form.get("photo"), form.get("metadata")
            if not isinstance(file, UploadFile):
                raise Refusal(400, "the form needs a file")
            data = await file.read(maximum + 1)
            details = load_object(metadata) if isinstance(metadata, str) else {}
            request_id = details.get("requestId") or form.get("requestId")
    except TimeoutError as error:
        raise Refusal(408, "photo did not arrive in time", code=ErrorCode.TIMEOUT) from error
    except MultiPartException as error:
        raise Refusal(400, "the form cannot be read", code=ErrorCode.MALFORMED_MESSAGE) from error
    if len(data) > maximum:
        raise Refusal(413, f"photo is larger than {maximum} bytes", code=ErrorCode.TOO_LARGE)
    kind = next((kind for magic, kind in _IMAGES.items() if data.startswith(magic)), None)
    if kind is None:
        raise Refusal(415, "the file is not a JPEG, PNG or WebP picture", code=ErrorCode.UNSUPPORTED)
    hub = call.services.hub
    if not isinstance(request_id, str) or not hub.photo_expected(call.user_id, request_id):
        raise Refusal(404, "no request waits for this photo", code=ErrorCode.NOT_FOUND)
    photo = await _keep(call, data, request_id, *kind)
    url = f"{call.services.base_url}/api/photos/{photo.photo_id}"
    if not hub.photo_uploaded(call.user_id, request_id, data, kind[0], url):
        await forget_photo(call.services, call.user_id, photo.photo_id)
        raise Refusal(404, "no request waits for this photo", code=ErrorCode.NOT_FOUND)
    return JSON({"success": True, "photoUrl": url, "requestId": request_id})


async def _keep(call: Call, data: bytes, request_id: str, mime_type: str, suffix: str) -> PhotoRecord:
    photo_id = uuid.uuid4().hex  # the uploader's file name is never used
    name = photo_id + suffix
    store = call.services.store
    await store.put_file(name, data)
    photo = PhotoRecord(photo_id, call.user_id, request_id, None, mime_type, name, len(data), time.time())
    await store.put_photo(photo)
    for old in (await store.list_photos(call.user_id))[PHOTOS_MAX:]:
        await forget_photo(call.services, call.user_id, old.photo_id)
    return photo


async def get_photo(call: Call) -> Response:
    photo = await call.services.store.get_photo(call.path("photo_id"))
    if photo is None or photo.user_id != call.user_id:
        raise Refusal(404, "Photo not found", code=ErrorCode.NOT_FOUND)
    data = await call.services.store.get_file(photo.file_name)
    if data is None:
        raise Refusal(404, "Photo not found", code=ErrorCode.NOT_FOUND)
    return Response(data, media_type=photo.mime_type, headers={"Cache-Control": "private"})


async def gallery(call: Call) -> Response:
    photos = await call.services.store.list_photos(call.user_id)
    return JSON(
        {
            "success": True,
            "photos": [
                {
                    "id": photo.photo_id,
                    "photoUrl": f"{call.services.base_url}/api/photos/{photo.photo_id}",
                    "requestId": photo.request_id,
                    "appId": photo.package_name,
                    "uploadDate": int(photo.created_at * 1000),
                }
                for photo in photos
            ],
        }
    )


async def delete_photo(call: Call) -> Response:
    if not await forget_photo(call.services, call.user_id, call.path("photo_id")):
        raise Refusal(404, "Photo not found", code=ErrorCode.NOT_FOUND)
    return JSON({"success": True})


# -------------------------------------------------------------------------------------------------- account


async def account(call: Call) -> Response:
    user = await call.services.store.ensure_user(call.user_id)
    profile = {"id": user.user_id, "email": user.user_id, "displayName": user.display_name}
    return JSON({"success": True, "data": profile, **profile})


async def export_account(call: Call) -> Response:
    """Everything stored about the caller."""
    store = call.services.store
    apps = await store.get_installed_apps(call.user_id)
    where = await store.get_location(call.user_id)
    data = {
        "user": await store.ensure_user(call.user_id),
        "systemSettings": await store.get_user_settings(call.user_id),
        "phoneSettings": await store.get_phone_settings(call.user_id),
        "apps": [
            {
                "packageName": package,
                "settings": await store.get_app_settings(call.user_id, package),
                "storage": await store.storage_all(call.user_id, package),
            }
            for package in apps
        ],
        "lastLocation": where,
        "photos": await store.list_photos(call.user_id),
        "tokens": await store.list_tokens(call.user_id),
    }
    return JSON({"success": True, "data": data})


async def delete_account(call: Call) -> Response:
    """Ends the session, forgets everything, revokes every token."""
    await forget_account(call.services, call.user_id, "account deleted")
    return JSON({"success": True, "message": "Account deleted"})


# -------------------------------------------------------------------------------------------------- small answers


async def min_version(call: Call) -> Response:
    # Low on purpose: a higher number makes the phone demand an update from its own maker.
    return JSON({"success": True, "data": {"required": "2.0.0", "recommended": "2.0.0"}})


async def no_livekit(call: Call) -> Response:
    # An error makes the phone use its socket for audio, which is what this cloud offers (wire spec 2.8).
    raise Refusal(501, "LiveKit is not offered", code=ErrorCode.UNSUPPORTED)


async def accepted(call: Call) -> Response:
    """Feedback and error reports: read so that the phone is content, and dropped; they may hold private content."""
    await call.raw()
    return JSON({"success": True})


async def incident(call: Call) -> Response:
    await call.raw()
    return JSON({"success": True, "incidentId": secrets.token_hex(8)})


async def incident_attachments(call: Call) -> Response:
    await call.raw()
    return JSON({"success": True, "uploaded": [], "errors": []})


async def onboarding_status(call: Call) -> Response:
    package = call.query("packageName")
    if not package:
        raise Refusal(400, "packageName is required")
    done = await call.services.store.is_onboarded(call.user_id, package)
    return JSON({"success": True, "hasCompletedOnboarding": done})


async def complete_onboarding(call: Call) -> Response:
    record = await _body_app(call)
    await call.services.store.set_onboarded(call.user_id, record.package_name)
    return JSON({"success": True})


# -------------------------------------------------------------------------------------------------- the table

_U, _E, _M, _S = Auth.USER, Shape.ERROR, Shape.MESSAGE, Shape.SUCCESS_ERROR


def _both(prefixes: tuple[str, ...], *specs: RouteSpec) -> list[RouteSpec]:
    """The same routes under each prefix (wire spec 1.1)."""
    return [
        RouteSpec(s.method, prefix + s.path, s.handler, s.auth, s.shape, s.missing, s.body_max)
        for prefix in prefixes
        for s in specs
    ]


TABLE: Final[list[RouteSpec]] = [
    *_both(
        ("/auth", "/api/auth"),
        RouteSpec("POST", "/exchange-token", exchange_token, Auth.PUBLIC),
        RouteSpec("POST", "/generate-webview-token", webview_token, _U, _S),
        RouteSpec("POST", "/generate-webview-signed-user-token", signed_user_token, _U, _S),
        RouteSpec("POST", "/hash-with-api-key", hash_for_app, _U, _S),
    ),
    *_both(
        ("/apps", "/api/apps"),
        RouteSpec("GET", "", apps_2025, _U, _M),
        RouteSpec("GET", "/", apps_2025, _U, _M),
        RouteSpec("GET", "/installed", apps_2025, _U, _M),
        RouteSpec("POST", "/install/{package}", install_app, _U, _M),
        RouteSpec("POST", "/uninstall/{package}", uninstall_app, _U, _M),
        RouteSpec("POST", "/{package}/start", start_app, _U, _M),
        RouteSpec("POST", "/{package}/stop", stop_app, _U, _M),
        RouteSpec("GET", "/{package}", app_details, _U, _M),
    ),
    *_both(
        ("/appsettings", "/tpasettings"),
        RouteSpec("GET", "/{package}", get_app_settings, _U),
        RouteSpec("POST", "/{package}", put_app_settings, _U),
    ),
    RouteSpec("GET", "/api/client/min-version", min_version, Auth.PUBLIC),
    RouteSpec("GET", "/api/client/apps", apps_2026, _U),
    *(
        RouteSpec(method, "/api/client/user/settings", handler, _U)
        for method, handler in (
            ("GET", get_phone_settings),
            ("POST", put_phone_settings),
            ("PUT", put_phone_settings),
            ("DELETE", delete_phone_settings),
        )
    ),
    RouteSpec("POST", "/api/client/device/state", device_state, _U),
    RouteSpec("POST", "/api/client/calendar", calendar, _U),
    RouteSpec("POST", "/api/client/location", location, _U),
    RouteSpec("POST", "/api/client/location/poll-response/{correlation_id}", location_poll, _U),
    RouteSpec("POST", "/api/client/notifications", notification, _U),
    RouteSpec("POST", "/api/client/notifications/dismissed", notification_dismissed, _U),
    RouteSpec("POST", "/api/client/photo/response", photo_response, _U),
    RouteSpec("POST", "/api/client/audio/configure", configure_audio, _U),
    RouteSpec("GET", "/api/client/livekit/token", no_livekit, _U),
    RouteSpec("POST", "/api/client/feedback", accepted, _U),
    RouteSpec("POST", "/api/client/goodbye", goodbye, _U),
    RouteSpec("POST", "/api/user-data/set-datetime", set_datetime, Auth.PHONE),
    RouteSpec("POST", "/api/app-uptime/app-pkg-health-check", app_is_healthy, _U),
    RouteSpec("POST", "/app/error-report", accepted, Auth.PUBLIC),
    RouteSpec("POST", "/api/incidents", incident, _U),
    RouteSpec("POST", "/api/incidents/{incident_id}/logs", accepted, _U),
    RouteSpec("POST", "/api/incidents/{incident_id}/attachments", incident_attachments, _U),
    RouteSpec("POST", "/api/photos/upload", upload_photo, _U, _S),
    RouteSpec("GET", "/api/photos/{photo_id}", get_photo, _U, _S),
    RouteSpec("GET", "/api/gallery", gallery, _U, _S),
    RouteSpec("DELETE", "/api/gallery/{photo_id}", delete_photo, _U, _S),
    RouteSpec("GET", "/api/account/me", account, _U),
    RouteSpec("GET", "/api/account/export", export_account, _U),
    RouteSpec("DELETE", "/api/account", delete_account, _U),
    RouteSpec("GET", "/api/onboarding/status", onboarding_status, _U),
    RouteSpec("POST", "/api/onboarding/complete", complete_onboarding, _U),
]
