"""What the cloud posts to an app server over HTTP.

Rules: source is the wire specification, section 4. The SDK checks no secret on these routes; our signature header is
extra and ignored by it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from wire.messages.base import Direction, Message, Registry, registry


class Webhook(Message):
    direction: ClassVar[Direction] = Direction.CLOUD_TO_APP_SERVER


class SessionRequest(Webhook):
    about: ClassVar[str] = "POST /webhook: connect for this user. The reply comes after the app's onSession."
    type: Literal["session_request"] = "session_request"
    session_id: str
    user_id: str
    mentra_os_websocket_url: str = Field(alias="mentraOSWebsocketUrl")
    augment_os_websocket_url: str = Field(alias="augmentOSWebsocketUrl")


class StopRequest(Webhook):
    about: ClassVar[str] = "POST /webhook: the session is over."
    type: Literal["stop_request"] = "stop_request"
    session_id: str
    user_id: str
    reason: Literal["user_disabled", "system_stop", "error"]


WEBHOOKS: Registry = registry(SessionRequest, StopRequest)


def settings_body(user_id: str, settings: list[dict[str, Any]]) -> dict[str, Any]:
    """POST /settings: the app's settings changed (wire spec 4.3)."""
    return {"userIdForSettings": user_id, "settings": settings}


def tool_body(tool_id: str, parameters: dict[str, Any], user_id: str, timestamp: str) -> dict[str, Any]:
    """POST /tool: run a tool of the app (wire spec 4.4)."""
    return {"toolId": tool_id, "toolParameters": parameters, "timestamp": timestamp, "userId": user_id}
