"""What the routes work with, in one place, made once by the composition root."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloud.auth import (
    AdminAuth,
    OidcVerifier,
    RateLimiter,
    SignedUserTokens,
    TokenVerifier,
    WebviewTokens,
)
from cloud.cluster.webview_tokens import SharedWebviewTokens
from cloud.config import CloudConfig
from cloud.http.ports import Hub
from cloud.metrics import LoopWatch, Metrics
from cloud.speech.service import SpeechService
from cloud.speech.tts import SpeechSynthesis
from cloud.store.base import Store
from cloud.store.records import AppRecord
from cloud.webhooks import WebhookClient


class Siblings(Protocol):
    """The other processes that serve the same port (`cloud run --workers N`)."""

    async def metrics(self, own: bytes) -> bytes:
        """The text form of all of them; `own` is this process's."""

    def drain(self) -> None:
        """Every one drains, this one too."""

    @property
    def silent(self) -> list[int]:
        """Numbers of those that do not answer now."""


@dataclass(slots=True)
class Services:
    """`port` is the real one once the listener is up; `monotonic` exists for tests of expiry."""

    config: CloudConfig
    store: Store
    hub: Hub
    verifier: TokenVerifier
    admin: AdminAuth
    metrics: Metrics
    webhooks: WebhookClient
    loop_watch: LoopWatch
    webview_tokens: WebviewTokens = field(default_factory=WebviewTokens)
    #: Where several processes serve; else None.
    shared_webview_tokens: SharedWebviewTokens | None = None
    signer: SignedUserTokens | None = None
    oidc: OidcVerifier | None = None
    synthesis: SpeechSynthesis | None = None
    speech: SpeechService | None = None
    port: int | None = None
    siblings: Siblings | None = None
    #: In a cluster: the answer of the node that owns the caller's session, None if this node answers.
    elsewhere: Callable[[Any], Awaitable[Any]] | None = None
    #: In a cluster: this node's name, and what puts one question to all others, or to those named by a second argument;
    #: a node's answer is None if it gave none.
    others: tuple[str, Callable[..., Awaitable[dict[str, Any]]]] | None = None
    monotonic: Callable[[], float] = time.monotonic
    #: An ordinary client makes a burst of about 20 requests at start, then a few a minute.
    requests: RateLimiter = field(default_factory=lambda: RateLimiter(rate=20, burst=100))
    #: Wrong admin tokens per address: a person mistypes a few, a program tries thousands.
    admin_guesses: RateLimiter = field(default_factory=lambda: RateLimiter(rate=0.2, burst=10))
    #: Wire spec 2.8: 429 above 10 a second.
    device_states: RateLimiter = field(default_factory=lambda: RateLimiter(rate=10, burst=10))
    #: Failure catalogue PER-04: 100 requests a minute per app and user.
    storage: RateLimiter = field(default_factory=lambda: RateLimiter(rate=100 / 60, burst=100))
    #: Speech costs its provider money, and the route is open (wire spec 5.6).
    utterances: RateLimiter = field(default_factory=lambda: RateLimiter(rate=0.5, burst=10))

    @classmethod
    def make(
        cls,
        *,
        config: CloudConfig,
        store: Store,
        hub: Hub,
        verifier: TokenVerifier,
        metrics: Metrics,
        webhooks: WebhookClient,
        loop_watch: LoopWatch,
        speech: SpeechService | None = None,
    ) -> Services:
        """Everything that follows from the configuration. Raises ConfigError."""
        auth = config.auth
        oidc = None
        if auth.oidc_issuer and auth.oidc_audience and auth.oidc_jwks_url:
            oidc = OidcVerifier(
                issuer=auth.oidc_issuer,
                audience=auth.oidc_audience,
                jwks_url=auth.oidc_jwks_url,
                leeway=auth.leeway,
            )
        admin_hash = auth.admin_token_sha256
        return cls(
            config=config,
            store=store,
            hub=hub,
            verifier=verifier,
            admin=AdminAuth(admin_hash.get_secret_value() if admin_hash else None),
            metrics=metrics,
            webhooks=webhooks,
            loop_watch=loop_watch,
            signer=SignedUserTokens(auth.signing_key.get_secret_value()) if auth.signing_key else None,
            oidc=oidc,
            synthesis=SpeechSynthesis.make(config.speech),
            speech=speech,
        )

    @property
    def base_url(self) -> str:
        return self.config.base_url(self.port)

    @property
    def apps(self) -> Mapping[str, AppRecord]:
        return self.store.apps

    async def app(self, package_name: str) -> AppRecord | None:
        """An app record, also one that another process has just written."""
        return self.store.apps.get(package_name) or await self.store.get_app(package_name)

    async def has_app(self, user_id: str, record: AppRecord) -> bool:
        """Whether this user has installed the app."""
        return record.preinstalled or record.package_name in await self.store.get_installed_apps(user_id)
