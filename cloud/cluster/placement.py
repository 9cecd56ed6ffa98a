"""Which of the workers should have a connection, from the head of its upgrade request.

Rules: a hint only; nothing here is proof of who somebody is, and any worker can serve anybody. The key comes from the URL
(`?s=` or `/s/<key>/`), else from the user that a token or header claims, unverified. Rendezvous hashing: when a worker dies
its sessions spread over the others, and nobody else's move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from wire.placement import QUERY, claimed_user, session_key, split_path

#: A key is 24 characters; what a stranger sends may be anything.
_KEY_MAX: Final = 64


def best_of(key: str, candidates: Iterable[int]) -> int:
    """The candidate with the highest hash for this key. Raises ValueError without candidates."""
    return max(candidates, key=lambda one: hashlib.blake2b(f"{key}/{one}".encode(), digest_size=8).digest())


def key_of_request(head: bytes) -> str | None:
    """The placement key in a request head; None if it says nothing."""
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3:
        return None
    try:
        target = urlsplit(parts[1])
        query = dict(parse_qsl(target.query, max_num_fields=100))
    except ValueError:
        return None
    key, _ = split_path(target.path)
    key = key or query.get(QUERY)
    if key:
        return key if len(key) <= _KEY_MAX else None
    token = query.get("token")
    for line in lines[1:]:
        name, _, value = line.partition(":")
        match name.strip().lower():
            case "x-user-id" if value.strip():
                return session_key(value.strip())
            case "authorization":
                scheme, _, credential = value.strip().partition(" ")
                if scheme.lower() == "bearer":
                    token = credential.strip()
    user = claimed_user(token) if token else None
    return session_key(user) if user else None
