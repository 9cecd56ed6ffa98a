"""What the cloud remembers, as frozen records.

Rules: plain data, no storage details; times are wall-clock seconds (UNIX epoch), because they outlive a process;
nothing here is ever sent to a client as it is (`AppRecord` holds the hash of a key).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class AppType(StrEnum):
    STANDARD = "standard"  # one in the foreground at a time
    BACKGROUND = "background"
    SYSTEM_DASHBOARD = "system_dashboard"


@dataclass(frozen=True, slots=True)
class Permission:
    """What an app asks the user for; `type` is one of wire spec 6.7."""

    type: str
    description: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class AppRecord:
    """A third-party program as its developer registered it."""

    package_name: str
    name: str
    public_url: str
    hashed_api_key: str = field(repr=False)
    app_type: AppType = AppType.STANDARD
    description: str = ""
    permissions: tuple[Permission, ...] = ()
    settings: tuple[Mapping[str, Any], ...] = ()  # the schema, not anybody's values
    tools: tuple[Mapping[str, Any], ...] = ()
    hardware_requirements: tuple[Mapping[str, Any], ...] = ()
    logo_url: str = ""
    webview_url: str | None = None
    version: str | None = None
    organization: str | None = None
    uninstallable: bool = True
    is_system: bool = False
    #: Installed for every user without asking (system apps, `dev`).
    preinstalled: bool = False
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class UserRecord:
    user_id: str
    display_name: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A core token that was issued; the token itself is not kept."""

    token_id: str
    user_id: str
    label: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class Registration:
    """An app server that announced itself: where it can be reached, and which package it serves."""

    registration_id: str
    package_name: str
    webhook_url: str
    server_urls: tuple[str, ...]
    created_at: float
    last_seen_at: float


@dataclass(frozen=True, slots=True)
class Location:
    lat: float
    lng: float
    accuracy: float | None
    at: float


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What a session must find again after a crash of the cloud."""

    user_id: str
    session_id: str
    epoch: str
    updated_at: float


@dataclass(frozen=True, slots=True)
class PhotoRecord:
    """A photo that glasses uploaded; the store keeps the bytes under `file_name`."""

    photo_id: str
    user_id: str
    request_id: str
    package_name: str | None
    mime_type: str
    file_name: str
    size: int
    created_at: float
