"""Where a session is best served: one short key per user, known to glasses, apps and balancers without asking anybody.

Rules: a hint, never a proof: every node can serve every session, and a wrong key costs a hop. The key is a hash, so that
access logs of proxies hold no address of a person. Glasses carry it as the query `s` of their URL. Apps carry it as the path
prefix `/s/<key>` before `/app-ws`: the SDKs cut that suffix off to find the REST address (wire spec 0, rule 1; a query
there would break it), so that their requests carry it too. Balancers hash either.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson

#: The query key that glasses add, and the first path segment of apps.
QUERY: Final = "s"
#: The suffix that SDKs cut off.
APP_PATH: Final = "/app-ws"
#: 120 bits, far beyond chance collisions among billions of users; a multiple of 5 needs no padding.
_KEY_BYTES: Final = 15
#: Longest token that is looked into, characters: ours have a few hundred.
_TOKEN_MAX: Final = 8192
_PREFIX: Final = re.compile(r"/s/([a-z2-7]{24})(?=/)")


def session_key(user_id: str) -> str:
    """The key of a user's session: 24 characters a-z and 2-7, the same on every node and version."""
    digest = hashlib.blake2b(user_id.lower().encode(), digest_size=_KEY_BYTES, person=b"glassbridge")
    return base64.b32encode(digest.digest()).decode().lower()


def with_query(url: str, key: str) -> str:
    """A glasses URL with the key; one that is there already is replaced."""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != QUERY]
    return urlunsplit(parts._replace(query=urlencode([*query, (QUERY, key)])))


def with_prefix(url: str, key: str) -> str:
    """An app's URL, which ends in `/app-ws`, with the key before that."""
    return f"{url.removesuffix(APP_PATH)}/s/{key}{APP_PATH}"


def split_path(path: str) -> tuple[str | None, str]:
    """The key in a path, if there is one, and the path without it."""
    found = _PREFIX.match(path)
    return (found[1], path[found.end() :]) if found else (None, path)


def claimed_user(token: str) -> str | None:
    """The user a token says it is for, unverified; None if it is no such token."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _TOKEN_MAX:
        return None
    try:
        claims: Any = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    user = claims.get("email") if isinstance(claims, dict) else None
    return user if isinstance(user, str) and user else None
