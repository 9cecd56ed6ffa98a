"""A small store of strings per user and app, kept by the cloud.

Rules: a write is done when the cloud has said so; there is no cache that could be lost. The address follows the
session's current cloud. Limits are the cloud's: 100 kB a value, 1 MB an app and user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from glassbridge.app.errors import StorageError

VALUE_BYTES_MAX = 100_000


class Storage:
    """`get`, `set`, `delete`, `all`, `clear`; every call raises StorageError with the reason."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        cloud_url: Callable[[], str],
        user_id: str,
        package_name: str,
        api_key: str,
    ) -> None:
        self._client = client
        self._cloud_url = cloud_url
        self._path = f"/api/sdk/simple-storage/{quote(user_id, safe='')}"
        self._headers = {"Authorization": f"Bearer {package_name}:{api_key}"}

    async def all(self) -> dict[str, str]:
        body = await self._call("reading the storage", "GET", "")
        return {str(key): str(value) for key, value in (body.get("data") or {}).items()}

    async def get(self, key: str, default: str | None = None) -> str | None:
        return (await self.all()).get(key, default)

    async def set(self, key: str, value: str) -> None:
        await self.set_many({key: value})

    async def set_many(self, values: Mapping[str, str]) -> None:
        """All or nothing. Raises StorageError before sending when a value is over 100 kB."""
        for key, value in values.items():
            if len(value.encode()) > VALUE_BYTES_MAX:
                raise StorageError(f"storing {key!r}", 0, f"the value is over {VALUE_BYTES_MAX} bytes")
        await self._call("writing the storage", "PUT", "", {"data": dict(values)})

    async def delete(self, key: str) -> bool:
        """Whether there was such a key."""
        try:
            await self._call("deleting from the storage", "DELETE", "/" + quote(key, safe=""))
        except StorageError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def clear(self) -> None:
        await self._call("clearing the storage", "DELETE", "")

    async def _call(
        self, what: str, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        url = self._cloud_url() + self._path + path
        try:
            reply = await self._client.request(method, url, headers=self._headers, json=body)
        except httpx.HTTPError as error:
            raise StorageError(what, 0, f"the cloud was not reached ({type(error).__name__})") from error
        try:
            value = reply.json()
        except ValueError:
            value = None
        fields: dict[str, Any] = value if isinstance(value, dict) else {}
        if not reply.is_success:
            raise StorageError(what, reply.status_code, str(fields.get("error") or reply.reason_phrase))
        return fields
