"""Webhooks of sessions to app servers: posted, answered, kept for the console and sent once more from there.

Rules: a session hears of every session_request exactly once that it leaves, if it does, and then exactly once of its
end: answered, failed or held back. A webhook that is kept holds no key and no content of the user. Sources: wire spec 4;
failure catalogue APP-05, APP-06.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from cloud.core import effects as fx
from cloud.core.endpoints import Endpoints, HeldBack
from cloud.http.ports import AppOutcome
from cloud.journal import Journal
from cloud.metrics import Metrics
from cloud.session_entry import Feed, SessionEntry
from cloud.store.records import AppRecord
from cloud.tasks import Tasks
from cloud.webhooks import FormFile, WebhookClient, WebhookError, WebhookResult

#: Webhooks kept per app for the console, each with its reply up to that size in characters (SDK replies have about 100).
WEBHOOKS_MAX: Final = 10
WEBHOOK_REPLY_MAX: Final = 4096
#: Seconds before a stop webhook that reached nobody is posted a second and last time.
STOP_RETRY: Final = 1.0
#: Seconds before a start that found our own queue full is tried again: a queue drains in less.
QUEUE_RETRY: Final = 5.0


class AppWebhooks:
    """`start`: starts a user's app (for a webhook that is sent once more); `patience`: seconds for an answer."""

    def __init__(
        self,
        *,
        client: WebhookClient,
        endpoints: Endpoints,
        sessions: Mapping[str, SessionEntry],
        records: Callable[[], Mapping[str, AppRecord]],
        feed: Feed,
        start: Callable[[str, str], Awaitable[AppOutcome]],
        tasks: Tasks,
        journal: Journal,
        metrics: Metrics,
        patience: float,
    ) -> None:
        self._client = client
        self._endpoints = endpoints
        self._sessions = sessions
        self._records = records
        self._feed = feed
        self._start = start
        self._tasks = tasks
        self._journal = journal
        self._metrics = metrics
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, deque[dict[str, Any]]] = {}
        self._number = 0

    # ================================================================================================ a start

    def ask(self, entry: SessionEntry, request: fx.PostSessionRequest, now: float) -> None:
        """Ask an app server to run an app for this session, when its endpoint permits it."""
        entry.started_at.setdefault(request.package, now)
        verdict = self._endpoints.ask(request.base_url, now, by_user=request.by_user)
        if isinstance(verdict, HeldBack):
            task = self._tasks.own(self._held_back(entry, request, verdict.retry_after))
        else:
            task = self._tasks.own(self._ask(entry, request, verdict.delay))
        entry.posts[request.package, request.cycle] = task

    @staticmethod
    def cancel(entry: SessionEntry, package: str, cycle: int) -> None:
        """The answer to this session_request matters to nobody any more."""
        task = entry.posts.pop((package, cycle), None)
        if task is not None:
            task.cancel()

    async def _held_back(
        self, entry: SessionEntry, request: fx.PostSessionRequest, retry_after: float
    ) -> None:
        self._answered(
            entry, request, ok=False, message="the app's server does not answer", retry_after=retry_after
        )

    async def _ask(self, entry: SessionEntry, request: fx.PostSessionRequest, delay: float) -> None:
        if delay > 0:
            await asyncio.sleep(delay)
        result = await self._post(
            request.base_url + "/webhook",
            request.package,
            request.body,
            request.timeout,
            0.0 if request.by_user else self._endpoints.pause,
            lambda: self._feed(entry, entry.session.request_sent, request.package, request.cycle),
        )
        self._posted(entry, request, "session_request", result)
        # The SDK answers 500 with this body when its onSession threw or its own connect failed (wire spec 4.1).
        refused = result.status == 500 and (result.body or {}).get("status") == "error"
        self._answered(
            entry,
            request,
            ok=result.ok,
            message=_why(result),
            from_app=refused,
            retry_after=QUEUE_RETRY if result.error is WebhookError.QUEUE else 0.0,
        )

    def _answered(
        self,
        entry: SessionEntry,
        request: fx.PostSessionRequest,
        *,
        ok: bool,
        message: str,
        from_app: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        session = entry.session
        entry.posts.pop((request.package, request.cycle), None)
        if not ok:
            self._metrics.counter("webhook_failures_total").labels(error=message.split(":")[0]).inc()
        self._feed(
            entry,
            lambda now: session.webhook_answered(
                request.package,
                request.cycle,
                now,
                ok=ok,
                message=message,
                from_app=from_app,
                retry_after=retry_after,
            ),
        )

    # ================================================================================================ stops, photos

    def tell_stop(self, entry: SessionEntry, request: fx.PostStopRequest) -> None:
        """Tell an app server that its app ends in this session."""
        self._tasks.own(self._tell_stop(entry, request))

    async def _tell_stop(self, entry: SessionEntry, request: fx.PostStopRequest) -> None:
        url = request.base_url + "/webhook"
        result = await self._post(url, request.package, request.body, request.timeout)
        if result.error in (WebhookError.CONNECT, WebhookError.LOST):  # nobody was there; once more (APP-06)
            await asyncio.sleep(STOP_RETRY)
            result = await self._post(url, request.package, request.body, request.timeout)
        self._posted(entry, request, "stop_request", result)
        self._feed(entry, entry.session.stop_answered, request.package, request.cycle)

    def tell_photo_failure(self, request: fx.PostPhotoFailure) -> None:
        """Tell an app that the photo which it asked for will not come."""
        fields = {
            "requestId": request.request_id,
            "type": "photo_error",
            "success": "false",
            "errorCode": request.code,
            "errorMessage": request.message,
        }
        self._tasks.own(self._post_form(request.url, fields, None, 10.0))

    def forward_photo(self, record: AppRecord, request_id: str, data: bytes, mime_type: str) -> None:
        """Send a photo that was uploaded to us on to its app."""
        suffix = mime_type.rpartition("/")[2] or "jpeg"
        fields = {"requestId": request_id, "success": "true", "type": "photo_upload"}
        file = FormFile("photo", f"{request_id}.{suffix}", data, mime_type)
        self._tasks.own(self._post_form(record.public_url.rstrip("/") + "/photo-upload", fields, file, 20.0))

    async def _post_form(
        self, url: str, fields: Mapping[str, str], file: FormFile | None, timeout: float
    ) -> None:
        await self._client.post_form(url, fields, file, timeout=timeout)

    # ================================================================================================ posting, keeping

    async def _post(
        self,
        url: str,
        package: str,
        body: Mapping[str, Any],
        timeout: float,
        pause: float = 0.0,
        on_sent: Callable[[], None] | None = None,
    ) -> WebhookResult:
        record = self._records().get(package)
        key = record.hashed_api_key if record else None
        return await self._client.post(
            url, body, timeout=timeout, signing_key=key, pause=pause, on_sent=on_sent
        )

    def _posted(
        self,
        entry: SessionEntry,
        request: fx.PostSessionRequest | fx.PostStopRequest,
        kind: str,
        result: WebhookResult,
    ) -> None:
        if result.error is not WebhookError.QUEUE:
            self._metrics.histogram("webhook_seconds").labels(kind=kind).observe(result.duration)
        self._keep(request.package, request.body, result)
        self._journal.note(
            entry,
            "webhook",
            {
                "package": request.package,
                "type": kind,
                "status": result.status,
                "error": result.error,
                "ms": round(result.duration * 1000),
            },
        )

    def _keep(
        self, package: str, body: Mapping[str, Any], result: WebhookResult, *, replayed: bool = False
    ) -> dict[str, Any]:
        reply = result.body
        if reply is not None and len(str(reply)) > WEBHOOK_REPLY_MAX:
            reply = {"note": f"a reply of over {WEBHOOK_REPLY_MAX} characters is not kept"}
        self._number += 1
        record = {
            "id": self._number,
            "at": time.time(),
            "user": body.get("userId"),
            "request": dict(body),
            "ok": result.ok,
            "status": result.status,
            "error": result.error,
            "reply": reply,
            "ms": round(result.duration * 1000, 1),
            "replayed": replayed,
        }
        self._kept.setdefault(package, deque(maxlen=WEBHOOKS_MAX)).append(record)
        return record

    def kept(self, package: str) -> Sequence[dict[str, Any]]:
        """The last webhooks to this app with their replies, oldest first."""
        return list(self._kept.get(package, ()))

    async def replay(self, package: str, number: int) -> Mapping[str, Any] | None:
        """Send a kept webhook once more to where the app is now; its new record, or None if it is no longer kept."""
        kept = next((one for one in self.kept(package) if one["id"] == number), None)
        record = self._records().get(package)
        if kept is None or record is None:
            return None
        entry = self._sessions.get(str(kept["user"]))
        if kept["request"].get("type") == "session_request" and entry is not None:
            life = entry.session.app(package)
            if life is None or not life.is_running:
                # An app that nobody expects would be turned away when it connects: it is started, by the same request.
                before, user_id = self._number, entry.session.user_id
                await self._start(user_id, package)
                # The app is started when its socket is here; its reply to the webhook may come later.
                end = self._loop.time() + self._patience
                while self._loop.time() < end:
                    for newer in self.kept(package):
                        if newer["id"] > before and newer["user"] == user_id:
                            newer["replayed"] = True
                            return newer
                    await asyncio.sleep(0.02)
        url = record.public_url.rstrip("/") + "/webhook"
        result = await self._post(url, package, kept["request"], self._patience)
        return self._keep(package, kept["request"], result, replayed=True)


def _why(result: WebhookResult) -> str:
    """A failure in words for the developer."""
    if result.ok:
        return ""
    if result.status is not None:
        return f"error_status: the webhook answered {result.status}"
    if result.error is WebhookError.QUEUE:
        return f"{result.error.value}: too many other webhooks are on their way; tried again in {QUEUE_RETRY:g} s"
    return (result.error.value if result.error else "failed") + ": the webhook brought no answer"
