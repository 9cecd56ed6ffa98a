"""App records as JSON: what an operator or `mentra app export` writes, and what phones read.

Rules: Mentra's member names; unknown members are ignored; what a phone filters on is always present; the hash of a key
never leaves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cloud.auth import hash_api_key, new_api_key
from cloud.http.ports import AppView
from cloud.store.records import AppRecord, AppType, Permission
from wire.errors import ErrorCode, ProtocolError

PERMISSIONS = frozenset(
    {
        "MICROPHONE",
        "LOCATION",
        "BACKGROUND_LOCATION",
        "CALENDAR",
        "CAMERA",
        "NOTIFICATIONS",
        "READ_NOTIFICATIONS",
        "POST_NOTIFICATIONS",
        "ALL",
    }
)


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@]+(:\d{1,5})?(/\S*)?", value):
        raise ValueError("must be http:// or https:// and a host, without credentials")
    return value.rstrip("/")


HttpUrl = Annotated[str, Field(max_length=2048), AfterValidator(_http_url)]
AnyUrl = Annotated[str, Field(max_length=2048)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class PermissionEntry(_Part):
    type: str
    description: str = Field("", max_length=2000)
    required: bool = False

    @model_validator(mode="after")
    def _known(self) -> PermissionEntry:
        # The check at delivery would fail closed for a misspelt name; say so when it is registered (SUB-05).
        if self.type not in PERMISSIONS:
            raise ValueError(
                f"unknown permission {self.type[:40]!r}; known are {', '.join(sorted(PERMISSIONS))}"
            )
        return self


class Manifest(_Part):
    """A registration as an operator sends it. `apiKey` is clear; without any key one is made, or the old one kept."""

    package_name: str = Field(alias="packageName", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
    name: str = Field("", max_length=200)
    public_url: HttpUrl = Field(alias="publicUrl")
    api_key: str | None = Field(None, alias="apiKey", min_length=8, max_length=512, repr=False)
    hashed_api_key: str | None = Field(None, alias="hashedApiKey", pattern=r"^[0-9a-fA-F]{64}$", repr=False)
    app_type: AppType | Literal["foreground"] = Field(AppType.STANDARD, alias="appType")
    description: str = Field("", max_length=10_000)
    permissions: list[PermissionEntry | str] = Field(default_factory=list, max_length=32)
    settings: list[dict[str, Any]] = Field(default_factory=list, max_length=500)
    tools: list[dict[str, Any]] = Field(default_factory=list, max_length=100)
    hardware_requirements: list[dict[str, Any]] = Field(
        default_factory=list, alias="hardwareRequirements", max_length=32
    )
    logo_url: AnyUrl = Field("", alias="logoURL")
    webview_url: AnyUrl | None = Field(None, alias="webviewURL")
    version: str | None = Field(None, max_length=64)
    organization: str | None = Field(None, max_length=200)
    uninstallable: bool = True
    is_system: bool = Field(False, alias="isSystemApp")
    preinstalled: bool = False

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for old, new in (
            ("logoUrl", "logoURL"),
            ("webviewUrl", "webviewURL"),
            ("tpaType", "appType"),
            ("type", "appType"),
        ):
            if old in values:
                values.setdefault(new, values[old])
        if isinstance(values.get("permissions"), list):
            values["permissions"] = [
                {"type": entry} if isinstance(entry, str) else entry for entry in values["permissions"]
            ]
        for name in ("logoURL", "description", "settings", "tools", "permissions", "hardwareRequirements"):
            if values.get(name) is None:
                values.pop(name, None)
        return values

    def record(self, old: AppRecord | None) -> tuple[AppRecord, str | None]:
        """The record to store, and a freshly made clear key to show once (None if there was a key)."""
        fresh: str | None = None
        if self.api_key is not None:
            hashed = hash_api_key(self.api_key)
        elif self.hashed_api_key is not None:
            hashed = self.hashed_api_key.lower()
        elif old is not None:
            hashed = old.hashed_api_key
        else:
            fresh = new_api_key()
            hashed = hash_api_key(fresh)
        return (
            AppRecord(
                package_name=self.package_name,
                name=self.name or self.package_name,
                public_url=self.public_url,
                hashed_api_key=hashed,
                app_type=AppType.STANDARD if self.app_type == "foreground" else AppType(self.app_type),
                description=self.description,
                permissions=tuple(
                    Permission(entry.type, entry.description, entry.required)
                    for entry in self.permissions
                    if isinstance(entry, PermissionEntry)
                ),
                settings=tuple(self.settings),
                tools=tuple(self.tools),
                hardware_requirements=tuple(self.hardware_requirements),
                logo_url=self.logo_url,
                webview_url=self.webview_url,
                version=self.version,
                organization=self.organization,
                uninstallable=self.uninstallable,
                is_system=self.is_system,
                preinstalled=self.preinstalled,
            ),
            fresh,
        )


def parse_manifest(values: Mapping[str, Any]) -> Manifest:
    """Check a registration. Raises ProtocolError naming the first bad member."""
    try:
        return Manifest.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or "app"
        problem = str(first["msg"]).removeprefix("Value error, ")
        raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, f"{path}: {problem}", field=path) from None


def permissions_json(record: AppRecord) -> list[dict[str, Any]]:
    return [
        {"type": entry.type, "description": entry.description, "required": entry.required}
        for entry in record.permissions
    ]


def for_admin(record: AppRecord) -> dict[str, Any]:
    """Everything but the key: also what `app export` writes and `app import` reads."""
    return {
        "packageName": record.package_name,
        "name": record.name,
        "publicUrl": record.public_url,
        "appType": record.app_type,
        "description": record.description,
        "permissions": permissions_json(record),
        "settings": record.settings,
        "tools": record.tools,
        "hardwareRequirements": record.hardware_requirements,
        "logoURL": record.logo_url,
        "webviewURL": record.webview_url,
        "version": record.version,
        "organization": record.organization,
        "uninstallable": record.uninstallable,
        "isSystemApp": record.is_system,
        "preinstalled": record.preinstalled,
    }


def for_2025_phone(record: AppRecord, view: AppView | None) -> dict[str, Any]:
    """AppI of wire spec 2.8."""
    shown = for_admin(record) | {
        "is_running": bool(view and view.running),
        "is_foreground": bool(view and view.foreground),
    }
    del shown["preinstalled"]
    for name in ("webviewURL", "version", "organization"):
        if shown[name] is None:
            del shown[name]
    return shown


def for_2026_phone(record: AppRecord, view: AppView | None) -> dict[str, Any]:
    """AppletInterface of wire spec 2.8."""
    return {
        "packageName": record.package_name,
        "name": record.name,
        "webviewUrl": record.webview_url or "",
        "logoUrl": record.logo_url,
        "type": record.app_type,
        "permissions": permissions_json(record),
        "running": bool(view and view.running),
        "healthy": view is None or view.last_error is None,
        "hardwareRequirements": record.hardware_requirements,
    }
