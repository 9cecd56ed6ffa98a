"""Temporary tokens for web views where several processes serve: made by one, redeemed by whichever the app's server asks.

Rules: single use is a matter of the record's revision: whoever deletes it has redeemed it, and nobody else can. The token
itself is not in the record's name, only its hash. While the records are away, a token works where it was made.
"""

from __future__ import annotations

import hashlib
import time

import orjson

from cloud.auth import WebviewTokens
from cloud.cluster.fabric import Conflict, Fabric, Unavailable


class SharedWebviewTokens:
    """Like `cloud.auth.WebviewTokens`, for all nodes; an answer takes as long as the records."""

    def __init__(self, fabric: Fabric, local: WebviewTokens) -> None:
        """`local` serves while the records are away."""
        self._fabric = fabric
        self._local = local

    @staticmethod
    def _key(token: str) -> str:
        return f"wv.{hashlib.sha256(token.encode()).hexdigest()[:32]}"

    async def issue(self, user_id: str, package: str, now: float) -> str:
        """A token for `user_id` to open the web view of `package`; `now` is monotonic seconds of this process."""
        token = self._local.issue(user_id, package, now)
        # Wall time, because another machine reads it; what its clock is off by, the token lives longer or shorter.
        record = {"user": user_id, "package": package, "expires": time.time() + self._local.LIFETIME}
        try:
            await self._fabric.put(self._key(token), orjson.dumps(record), rev=0)
        except Unavailable:
            return token
        self._local.redeem(token, package, now)  # from now on only the record says whether it is used
        return token

    async def redeem(self, token: str, package: str, now: float) -> str | None:
        """The user id, once, in time and for the right package; else None. A token shown by the wrong package is burnt."""
        try:
            found = await self._fabric.get(self._key(token))
            if found is None:
                return self._local.redeem(token, package, now)
            await self._fabric.put(self._key(token), None, rev=found.rev)
        except (Conflict, Unavailable):  # somebody was quicker, or it cannot be known
            return self._local.redeem(token, package, now)
        record = orjson.loads(found.value)
        in_time = time.time() <= record["expires"]
        return str(record["user"]) if in_time and record["package"] == package else None
