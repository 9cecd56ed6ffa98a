"""The store: everything that must survive the process, behind one interface.

Rules: all methods are coroutines and may take milliseconds, so nothing on the event path awaits them. When a write
returns, it is on disk. A failure is a `StoreError` (try later) or a `StorageLimit` (never); nothing is acknowledged and
then lost. User ids are given lower-case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from cloud.store.records import (
    AppRecord,
    Location,
    PhotoRecord,
    Registration,
    SessionRecord,
    TokenRecord,
    UserRecord,
)
from wire.errors import BridgeError

#: Simple storage (wire spec 5.3, failure catalogue PER-04): what the SDK enforces, plus a bound on keys.
STORAGE_KEY_MAX: Final = 256  # characters
STORAGE_VALUE_BYTES_MAX: Final = 100 * 1024
STORAGE_TOTAL_BYTES_MAX: Final = 1024 * 1024
#: Keys of one settings map: the phone app has about 60.
SETTINGS_KEYS_MAX: Final = 1000
SETTINGS_VALUE_BYTES_MAX: Final = 100 * 1024


class StoreError(BridgeError):
    """The storage did not do what was asked; trying again later may help."""


class StorageLimit(StoreError):
    """An application asked for more room than it may have."""


class Store(Protocol):
    """See the module's rules. Maps are merged key by key, so that two writers on different keys both survive."""

    @property
    def apps(self) -> Mapping[str, AppRecord]:
        """The app records as last seen by this process: for lookups that cannot wait."""

    @property
    def away(self) -> str | None:
        """Why a store on another machine cannot be reached for the moment; None = it can, or is none of those."""

    #: Called with (kind, key) after another process changed a record: ("app", package), ("key", package) where an API key
    #: changed, ("token", token id). An empty key: any may have changed.
    on_change: Callable[[str, str], None] | None

    async def check(self) -> None:
        """Prove that the store can be written now. Raises StoreError."""

    async def close(self) -> None:
        """Finish every write and let go of the files."""

    # users
    async def get_user(self, user_id: str) -> UserRecord | None: ...
    async def ensure_user(self, user_id: str, display_name: str | None = None) -> UserRecord: ...
    async def list_users(self) -> list[UserRecord]: ...
    async def delete_user(self, user_id: str) -> bool:
        """Forget everything about a user. False if there was nobody."""

    # system settings (seen by apps) and phone settings (opaque to us)
    async def get_user_settings(self, user_id: str) -> dict[str, Any]: ...
    async def update_user_settings(self, user_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Merge; returns the whole map."""

    async def get_phone_settings(self, user_id: str) -> dict[str, Any]: ...
    async def update_phone_settings(self, user_id: str, changes: Mapping[str, Any]) -> dict[str, Any]: ...
    async def delete_phone_settings(self, user_id: str, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Remove the keys, or all; returns what is left."""

    # apps
    async def get_app(self, package_name: str) -> AppRecord | None: ...
    async def list_apps(self) -> list[AppRecord]: ...
    async def put_app(self, record: AppRecord) -> AppRecord:
        """Create or replace; returns the record with its `updated_at`."""

    async def delete_app(self, package_name: str) -> bool:
        """Remove the record and every installation of it; users' data of the app is kept for a re-registration."""

    # installed and wanted
    async def get_installed_apps(self, user_id: str) -> list[str]: ...
    async def install_app(self, user_id: str, package_name: str) -> None: ...
    async def uninstall_app(self, user_id: str, package_name: str) -> bool: ...
    async def get_wanted_apps(self, user_id: str) -> list[str]: ...
    async def set_wanted(self, user_id: str, package_name: str, wanted: bool) -> None:
        """What the user asked for. Only the user changes it (PER-02). Wanting installs."""

    # values of an app's settings
    async def get_app_settings(self, user_id: str, package_name: str) -> dict[str, Any]: ...
    async def put_app_settings(
        self, user_id: str, package_name: str, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge; returns the whole map."""

    # simple storage
    async def storage_all(self, user_id: str, package_name: str) -> dict[str, str]: ...
    async def storage_get(self, user_id: str, package_name: str, key: str) -> str | None: ...
    async def storage_put(self, user_id: str, package_name: str, items: Mapping[str, str]) -> None:
        """Upsert these keys, all or none. Raises StorageLimit."""

    async def storage_delete(self, user_id: str, package_name: str, key: str) -> bool: ...
    async def storage_clear(self, user_id: str, package_name: str) -> None: ...

    # registrations of app servers
    async def put_registration(self, registration: Registration) -> None: ...
    async def get_registration(self, registration_id: str) -> Registration | None: ...
    async def list_registrations(self, package_name: str | None = None) -> list[Registration]: ...
    async def delete_registration(self, registration_id: str) -> bool: ...

    # small facts
    async def is_onboarded(self, user_id: str, package_name: str) -> bool: ...
    async def set_onboarded(self, user_id: str, package_name: str) -> None: ...
    async def get_location(self, user_id: str) -> Location | None: ...
    async def put_location(self, user_id: str, location: Location) -> None: ...

    # tokens
    async def put_token(self, token: TokenRecord) -> None: ...
    async def list_tokens(self, user_id: str | None = None) -> list[TokenRecord]: ...
    async def revoke_token(self, token_id: str) -> bool: ...
    async def revoked_token_ids(self) -> list[str]:
        """Ids of revoked tokens that could still be presented."""

    # sessions that a restart must find
    async def put_session(self, session: SessionRecord) -> None: ...
    async def list_sessions(self) -> list[SessionRecord]: ...
    async def delete_session(self, user_id: str) -> None: ...

    # photos
    async def put_photo(self, photo: PhotoRecord) -> None: ...
    async def get_photo(self, photo_id: str) -> PhotoRecord | None: ...
    async def list_photos(self, user_id: str) -> list[PhotoRecord]: ...
    async def delete_photo(self, user_id: str, photo_id: str) -> PhotoRecord | None:
        """Remove the record; the bytes are removed with `delete_file`."""

    async def put_file(self, name: str, data: bytes) -> None:
        """Keep the bytes of a photo; every process that shares the store can read them. `name` is ours, not a client's."""

    async def get_file(self, name: str) -> bytes | None: ...
    async def delete_file(self, name: str) -> None: ...
