"""The names that nodes use for a session, a node and an app's socket; one place, because all must agree.

Rules: a user id is never part of an address: `sid` is `wire.placement.session_key`, the hash that glasses and apps carry in
their URLs.
"""

from __future__ import annotations

import secrets

#: Every node listens here: records that changed, messages between users, who is there.
EVERYBODY = "all.nodes"


def owner_key(sid: str) -> str:
    """Record: who owns the session."""
    return f"own.{sid}"


def state_key(sid: str) -> str:
    """Record: what the session is, at most a second old."""
    return f"st.{sid}"


def session_address(sid: str) -> str:
    """The owner listens: apps attach and speak, nodes ask."""
    return f"s.{sid}"


def epoch_address(sid: str) -> str:
    """Whoever cares for the session listens: who owns it now."""
    return f"e.{sid}"


def socket_address(socket_id: str) -> str:
    """The node that holds this app socket listens."""
    return f"a.{socket_id}"


def node_address(node: str) -> str:
    """That incarnation of a node listens: handoffs."""
    return f"n.{node}"


def new_node(name: str) -> str:
    """An incarnation: a restarted process is another node. Characters that no address may have are replaced."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in name)[:64]
    return f"{safe}-{secrets.token_hex(4)}"
