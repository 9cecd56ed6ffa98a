"""What an operator sees of the whole cloud from any of its nodes: sessions page by page, one user's trace, each node's health.

Rules: every node answers for itself (`answer`), and the one that is asked puts the answers together. A node that does not
answer in its time is named, never waited for. Pages go by user id, so that nothing is kept between two of them: a page is
what comes after the last id of the one before.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any, Final

import orjson

from cloud.http.services import Services

#: Sessions of one page: some 3 kB and 50 µs of the loop each.
PAGE_MAX: Final = 200
#: Records of one user's trace that a node gives; it keeps 2,000 of all users together.
RECORDS_MAX: Final = 500


def answer(services: Services, question: Mapping[str, Any]) -> dict[str, Any]:
    """This node's part. Raises KeyError, TypeError or ValueError for a question that cannot be read."""
    match question["view"]:
        case "sessions":
            after, limit = str(question["after"]), min(int(question["limit"]), PAGE_MAX)
            search = str(question["search"])
            users = [user for user in services.hub.user_ids() if search in user]
            page = heapq.nsmallest(limit, (user for user in users if user > after))
            views = [view for user in page if (view := services.hub.session_view(user)) is not None]
            return {"total": len(users), "sessions": views}
        case "trace":
            user = str(question["user"])
            records = [record for record in services.hub.trace() if record.get("user") == user]
            return {"events": records[-RECORDS_MAX:]}
        case "health":
            return {
                "sessions": len(services.hub.user_ids()),
                "draining": services.hub.draining,
                "loop_lag": services.loop_watch.lag,
                "admission": _admission(services),
                "storage": services.store.away or "ok",
                "backlog_bytes": services.hub.backlog,
            }
        case unknown:
            raise ValueError(f"there is no view {unknown!r}")


def _admission(services: Services) -> str:
    """`normal`, `shedding` or `refusing`."""
    for family in services.metrics.gauge("admission").collect():
        for one in family.samples:
            if one.value:
                return one.labels["state"]
    return "normal"


async def _all(services: Services, question: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Every node's answer by its name, and the names of those that did not answer."""
    own = orjson.loads(orjson.dumps(answer(services, question)))
    if services.others is None:
        return {"": own}, []
    me, others = services.others
    answers = {me: own, **await others(question)}
    return {n: a for n, a in answers.items() if a is not None}, [n for n, a in answers.items() if a is None]


async def sessions(services: Services, search: str, after: str, limit: int) -> dict[str, Any]:
    """A page of all sessions, by user id. `next`: what to ask for as `after` next; None at the end."""
    limit = max(1, min(limit, PAGE_MAX))
    question = {"view": "sessions", "search": search, "after": after, "limit": limit}
    answers, silent = await _all(services, question)
    rows: dict[str, dict[str, Any]] = {}
    for node, found in answers.items():
        for view in found["sessions"]:
            known = rows.get(view["user_id"])
            if known is None or (view["connected"] and not known["connected"]):  # seen twice while it moved
                rows[view["user_id"]] = {**view, "node": node} if node else view
    users = sorted(rows)
    page = users[:limit]
    more = len(users) > limit or any(len(found["sessions"]) == limit for found in answers.values())
    return {
        "sessions": [rows[user] for user in page],
        "total": sum(found["total"] for found in answers.values()),
        "next": page[-1] if page and more else None,
        "silent": silent,
    }


async def trace(services: Services, user: str) -> dict[str, Any]:
    """The kept records of a user, oldest first; those from before a move are kept by the node that it left."""
    answers, silent = await _all(services, {"view": "trace", "user": user})
    records = [
        {**record, "node": node} if node else record
        for node, found in answers.items()
        for record in found["events"]
    ]
    return {"events": sorted(records, key=lambda record: record["at"])[-RECORDS_MAX:], "silent": silent}


async def health(services: Services) -> dict[str, Any]:
    """How every node is."""
    answers, silent = await _all(services, {"view": "health"})
    return {"nodes": answers, "silent": silent}
