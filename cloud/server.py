"""The composition root of the cloud: makes every part, joins them, starts and ends them in the right order.

Rules: no logic of its own beyond that order and the admission of upgrades. Ready is said when serving, with the real port.
The end is a drain: refuse the new, tell everyone to come back, flush, exit. Sources: product.md (ready line, signals);
failure catalogue PRO-05, PRO-06, CON-06.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

import orjson

from cloud.app_socket import AppSocket, Claim
from cloud.auth import AuthError, Identity, TokenVerifier, bearer
from cloud.cluster.cluster import Cluster
from cloud.cluster.fabric import Fabric
from cloud.cluster.joining import open_fabric
from cloud.cluster.rest import Elsewhere
from cloud.cluster.webview_tokens import SharedWebviewTokens
from cloud.config import CloudConfig, prepare_data_dir
from cloud.glasses_socket import GlassesSocket
from cloud.http.app import build_http_app
from cloud.http.console.console import LIVE_PATH, Console
from cloud.http.routing import RouteSpec
from cloud.http.services import Services
from cloud.hub import Hub
from cloud.instance import Instance
from cloud.listener import Accept, Decision, Limits, Listener, Reject, UpgradeRequest
from cloud.livez import Livez
from cloud.logs import LogSystem
from cloud.metrics import LoopWatch, Metrics
from cloud.session_entry import SpeechFactory
from cloud.speech.service import SpeechService
from cloud.store.base import Store, StoreError
from cloud.store.open import open_store
from cloud.webhooks import LOOPBACK, DestinationPolicy, WebhookClient
from wire.errors import ConfigError, ErrorCode
from wire.messages import iso

try:
    import uvloop
except ImportError:  # pragma: no cover - Windows
    uvloop = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

GLASSES_PATHS: Final = frozenset({"/glasses-ws", "/ws/client"})
APP_PATHS: Final = frozenset({"/app-ws", "/ws/miniapp"})
#: Young generations are small, because the loop stands still while they are looked at: 2,000 objects take under 1 ms,
#: 20,000 some 10 ms. Older objects are sessions and connections; looking at all of them (0.1 s with 2,000 sessions) finds
#: next to nothing, so it comes after 10 million allocations.
GC_THRESHOLD: Final = (2_000, 10, 500)


class Cloud:
    """A running cloud: `async with Cloud(config) as cloud: cloud.url, cloud.hub, cloud.store`."""

    def __init__(
        self,
        config: CloudConfig,
        *,
        extra_routes: Sequence[RouteSpec] = (),
        speech: SpeechFactory | None = None,
        store: Store | None = None,
        sock: socket.socket | None = None,
        reuse_port: bool = False,
        adopt_keys: bool = False,
        fabric: Fabric | None = None,
    ) -> None:
        """`extra_routes`: the lens page of `dev`. `adopt_keys`: for `dev`, see `Hub`. `store`: another than the data directory's SQLite. `sock`: already bound. `fabric`: what joins this node to others, instead of the configured one; the caller closes it."""
        self.config = config.ready_to_serve()
        self._extra_routes = extra_routes
        self._speech = speech
        self._given_store = store
        self._sock = sock
        self._reuse_port = reuse_port
        self._adopt_keys = adopt_keys
        self._given_fabric = fabric
        self._fabric: Fabric | None = None
        self.port = 0
        self.hub: Hub
        self.store: Store
        self.metrics: Metrics
        self.services: Services
        self.verifier: TokenVerifier

    @property
    def url(self) -> str:
        """Where this process listens."""
        host = "127.0.0.1" if self.config.host in ("0.0.0.0", "::", "") else self.config.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def __aenter__(self) -> Cloud:
        """Raises ConfigError when the configuration, the data directory or the port cannot be used."""
        config = self.config
        self.metrics = Metrics()
        self.loop_watch = LoopWatch(self.metrics)
        if self._given_store is not None:
            self.store = self._given_store
        else:
            directory = prepare_data_dir(config.directory)
            self._instance = Instance(directory)
            try:
                self.store = await open_store(config)
            except BaseException:
                self._instance.release()
                raise
            if config.cluster.nats and config.store.url is None:
                log.warning(
                    "this node has users, apps and tokens of its own: other nodes of the cluster do not know them; "
                    "set store.url to a PostgreSQL that all nodes share"
                )
        auth = config.auth
        assert auth.secret is not None  # `ready_to_serve` saw to it
        self.verifier = TokenVerifier(
            [auth.secret.get_secret_value(), *(s.get_secret_value() for s in auth.previous_secrets)],
            require_exp=auth.require_exp,
            leeway=auth.leeway,
            revoked=await self.store.revoked_token_ids(),
        )
        allow = {*config.webhooks.allow, *({LOOPBACK} if config.profile == "dev" else ())}
        self._webhooks = WebhookClient(
            DestinationPolicy(allow, allow_http=config.webhooks.allow_http),
            concurrency_max=config.webhooks.concurrency_max,
        )
        self.speech_service = SpeechService.make(config.speech, self.metrics)
        if self._speech is None and self.speech_service is not None:
            self._speech = self.speech_service.session
        self.hub = Hub(
            config=config,
            store=self.store,
            webhooks=self._webhooks,
            metrics=self.metrics,
            websocket_url=lambda: config.app_socket_url(self.port),
            base_url=lambda: config.base_url(self.port),
            speech=self._speech,
            # In a cluster the session's own record says what another process has left behind.
            returning_users=frozenset()
            if self._given_fabric is not None or config.cluster.nats
            else frozenset(s.user_id for s in await self.store.list_sessions()),
            adopt_keys=self._adopt_keys,
        )
        self._fabric = self._given_fabric or await open_fabric(config.cluster)
        if self._fabric is not None:
            self.hub.cluster = Cluster(
                self._fabric, self.hub, name=config.cluster.node or socket.gethostname()
            )
            await self.hub.cluster.start()
        self.services = Services.make(
            config=config,
            store=self.store,
            hub=self.hub,
            verifier=self.verifier,
            metrics=self.metrics,
            webhooks=self._webhooks,
            loop_watch=self.loop_watch,
            speech=self.speech_service,
        )
        has_lens = any(route.path == "/" for route in self._extra_routes)
        self._console = Console(self.services, has_lens=has_lens)
        self.hub.on_published = self._console.sample
        limits = config.limits
        http_app = build_http_app(self.services, extra=self._extra_routes)
        if self.hub.cluster is not None:
            self.services.elsewhere = Elsewhere(self.hub.cluster, http_app)
            self.services.others = self.hub.cluster.node, self.hub.cluster.ask_others
            self.hub.cluster.answer_view = self._console.answer
        self.listener = Listener(
            http_app=http_app,
            upgrade=self._upgrade,
            limits=Limits(
                text_max=limits.text_bytes_max,
                binary_max=limits.binary_bytes_max,
                handshake_timeout=limits.handshake_timeout,
                unauthenticated_max=limits.unauthenticated_max,
                permessage_deflate=limits.permessage_deflate,
            ),
            trusted_proxies=config.trusted_proxies,
            turns=self.hub.turns,
            cork=self.hub.cork,
        )
        stats = self.listener.stats
        self.metrics.read_on_scrape("slow_consumers_total", lambda: stats.slow_consumers)
        self.metrics.read_on_scrape("frames_dropped_total", lambda: stats.dropped_lossy)
        self.metrics.read_on_scrape("frames_replaced_total", lambda: stats.replaced_latest)
        cluster = self.hub.cluster
        if cluster is not None:
            for name, read in (
                (
                    "cluster_remote_deliveries_total",
                    cluster.deliveries,
                ),
                (
                    "cluster_frames_lost_total",
                    cluster.losses,
                ),
                (
                    "cluster_takeovers_total",
                    cluster.takeovers,
                ),
            ):
                self.metrics.read_on_scrape(name, read)
        self.metrics.read_on_scrape("sessions_alive", lambda: self.hub.session_count)
        self.metrics.read_on_scrape("store_away", lambda: self.store.away is not None)
        if self._fabric is not None:
            self._publish_fabric(self._fabric)
        try:
            _, self.port = await self.listener.start(
                config.host, config.port, sock=self._sock, reuse_port=self._reuse_port
            )
        except OSError as error:
            await self._close_parts()
            raise ConfigError(
                f"port {config.port} on {config.host}",
                f"it cannot be used ({error.strerror or error})",
                "Choose another with --port, or stop the program that holds it.",
            ) from error
        self.services.port = self.port
        if self._fabric is not None:
            self.services.shared_webview_tokens = SharedWebviewTokens(
                self._fabric, self.services.webview_tokens
            )
        self.store.on_change = self._records_changed
        self.loop_watch.on_sample = self.hub.gate.sampled
        self.loop_watch.start()
        self._livez = self._watch_from_outside()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._livez.stop()
        await self.listener.stop_accepting()
        await self.hub.drain()
        await self.listener.close(timeout=self.config.drain_timeout)
        self.loop_watch.stop()
        await self._close_parts()

    async def _close_parts(self) -> None:
        await self.hub.close()
        if self._fabric is not None and self._given_fabric is None:
            await self._fabric.close()
        await self._webhooks.close()
        if self.speech_service is not None:
            await self.speech_service.close()
        if self.services.synthesis is not None:
            await self.services.synthesis.close()
        if self._given_store is None:
            await self.store.close()
            self._instance.release()

    def _publish_fabric(self, fabric: Fabric) -> None:
        stats = fabric.stats
        for name, read in (
            ("fabric_sent_total", lambda: stats.sent),
            ("fabric_sent_remote_total", lambda: stats.sent_remote),
            ("fabric_received_total", lambda: stats.received_remote),
            ("fabric_dropped_total", lambda: stats.dropped),
            ("fabric_gaps_total", lambda: stats.gaps),
            ("fabric_puts_total", lambda: stats.puts),
        ):
            self.metrics.read_on_scrape(name, read)

    def _watch_from_outside(self) -> Livez:
        """The thread that answers `/livez` when the loop is too busy to."""
        loop = asyncio.get_running_loop()

        async def adopt(connection: socket.socket) -> None:
            livez.taken()
            await self.listener.adopt(connection, b"", placed=False)

        def give(connection: socket.socket) -> None:
            loop.call_soon_threadsafe(lambda: self.hub.own(adopt(connection)))

        livez = Livez(
            self.listener.sockets,
            accepted=lambda: self.listener.accepted,
            beat=lambda: self.loop_watch.beat,
            clock=loop.time,
            dead_after=self.config.admission.dead_after,
            give=give,
        )
        livez.start()
        return livez

    def _records_changed(self, kind: str, key: str) -> None:
        """Another process changed what we share: what follows from it here. The store's own memory is fresh already."""
        match kind:
            case "app":
                self.hub.apps_changed(None)
            case "key":
                self.hub.close_app(key, "API key changed")
            case "token":
                self.hub.own(self._reload_revoked())

    async def _reload_revoked(self) -> None:
        try:
            revoked = await self.store.revoked_token_ids()
        except StoreError:
            return  # it has gone away again; everything is read anew when it is back
        fresh = set(revoked) - self.verifier.revoked
        self.verifier.revoked |= fresh
        for user_id in self.hub.user_ids() if fresh else ():
            for token_id in fresh:
                self.hub.token_revoked(user_id, token_id)

    # ------------------------------------------------------------------------------------------------ upgrades

    def _upgrade(self, request: UpgradeRequest) -> Decision:
        if request.path in GLASSES_PATHS:
            return self._glasses(request)
        if request.path in APP_PATHS:
            return self._app(request)
        if request.path == LIVE_PATH:
            return self._console.upgrade(request)
        return Reject(404, {"error": "no such WebSocket path", "paths": sorted(GLASSES_PATHS | APP_PATHS)})

    def _glasses(self, request: UpgradeRequest) -> Decision:
        token = bearer(request.headers.get("authorization")) or request.query.get("token")
        try:
            identity = self.verifier.verify(token)
        except AuthError as error:
            self.metrics.counter("refused_total").labels(kind="glasses", code=error.code.value).inc()
            return Reject(
                401,
                {
                    "type": "connection_error",
                    "code": error.code,
                    "message": str(error),
                    "timestamp": self._now(),
                },
            )
        cluster = self.hub.cluster
        if cluster is not None and cluster.must_look(identity.user_id):
            return asyncio.ensure_future(self._perhaps_returning(cluster, identity))
        return self._admitted(identity, returning=False)

    async def _perhaps_returning(self, cluster: Cluster, identity: Identity) -> Accept | Reject:
        """This node refuses new sessions; one that runs is let in all the same."""
        return self._admitted(identity, returning=await cluster.runs(identity.user_id))

    def _admitted(self, identity: Identity, *, returning: bool) -> Accept | Reject:
        refusal = self.hub.admission(identity.user_id, returning=returning)
        if refusal is not None:
            status, code, wait = refusal
            self.metrics.counter("refused_total").labels(kind="glasses", code=code.value).inc()
            return Reject(
                status,
                {
                    "type": "connection_error",
                    "code": code,
                    "message": _REFUSALS[code],
                    "timestamp": self._now(),
                },
                {"Retry-After": str(max(1, round(wait)))},
            )
        return Accept(GlassesSocket(self.hub, identity))

    def _app(self, request: UpgradeRequest) -> Accept | Reject:
        """An SDK 2 app says who it is in its first message; others do in headers (wire spec 1.4)."""
        if self.hub.draining:
            return Reject(
                503, self._tpa_error(ErrorCode.DRAINING, "the server is restarting"), {"Retry-After": "5"}
            )
        headers = request.headers
        token = bearer(headers.get("authorization"))
        user = headers.get("x-user-id")
        if token is not None:
            session_id = headers.get("x-session-id")
            if not user or not session_id:
                message = "Missing userId or sessionId in request headers"
                return Reject(401, self._tpa_error(ErrorCode.MISSING_HEADERS, message))
            try:
                package, key = self.verifier.verify_app_token(token)
            except AuthError as error:
                return Reject(401, self._tpa_error(ErrorCode.JWT_INVALID, str(error)))
            return Accept(self._app_socket(Claim(package, key, user_id=user)), authenticated=False)
        named, key_header = headers.get("x-package-name"), headers.get("x-api-key")
        if user and named and key_header:
            return Accept(self._app_socket(Claim(named, key_header, user_id=user)), authenticated=False)
        return Accept(self._app_socket(), authenticated=False)

    def _app_socket(self, claim: Claim | None = None) -> AppSocket:
        return AppSocket(self.hub, claim, init_timeout=self.config.limits.handshake_timeout)

    def _tpa_error(self, code: ErrorCode, message: str) -> dict[str, Any]:
        return {"type": "tpa_connection_error", "code": code, "message": message, "timestamp": self._now()}

    @staticmethod
    def _now() -> str:
        return iso(time.time())


_REFUSALS: Final = {
    ErrorCode.DRAINING: "the server is restarting",
    ErrorCode.OVERLOADED: "the server is busy",
    ErrorCode.RATE_LIMITED: "too many connections of this user",
}


# ---------------------------------------------------------------------------------------------------- the process


def new_loop() -> asyncio.AbstractEventLoop:
    """The loop that the cloud runs on: uvloop where there is one."""
    return uvloop.new_event_loop() if uvloop is not None else asyncio.new_event_loop()


def run(config: CloudConfig, *, json_ready: bool, extra_routes: Sequence[RouteSpec] = ()) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises ConfigError before serving."""
    if config.workers > 1:
        from cloud.cluster.workers import run_workers  # only who needs several processes loads what they need

        return run_workers(config, json_ready=json_ready)
    logs = LogSystem(config.log)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_serve(config, json_ready, extra_routes))
    finally:
        logs.close()


async def _serve(config: CloudConfig, json_ready: bool, extra_routes: Sequence[RouteSpec]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    codes = {signal.SIGTERM: 0, signal.SIGINT: 130}
    received: list[int] = []

    def on_signal(number: signal.Signals) -> None:
        received.append(codes[number])
        stop.set()

    for number in codes:
        with suppress(NotImplementedError):  # Windows has no signal handlers on the loop
            loop.add_signal_handler(number, on_signal, number)
    loop.set_exception_handler(contained)
    try:
        async with Cloud(config, extra_routes=extra_routes) as cloud:
            # What lives now lives as long as the process; the collector need not look at it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLD)
            ready = {"event": "ready", "url": cloud.url, "pid": os.getpid()}
            if json_ready:
                sys.stdout.buffer.write(orjson.dumps(ready) + b"\n")
                sys.stdout.flush()
            log.info("cloud is serving at %s", cloud.url)
            await stop.wait()
            log.info("draining")
    except StoreError as error:
        log.error("storage: %s", error)
        return 1
    return received[0] if received else 0


def contained(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The last boundary: an error that nobody owned is logged, and the process lives (PRO-01)."""
    log.error("unhandled: %s", context.get("message"), exc_info=context.get("exception"))
