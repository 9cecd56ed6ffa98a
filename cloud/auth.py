"""Who is asking: core tokens, app keys, webview tokens, the admin token, OIDC, and how often one may ask.

Rules: algorithms are pinned, comparisons take constant time, secrets shorter than 32 bytes are refused. Every refusal is
an `AuthError` with the words that clients know and nothing about the reason inside. Verification of a core token is
synchronous and touches no storage; revoked token ids are held in memory. User ids are lower-case, always.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets as random_source
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import jwt
from jwt import PyJWKClient

from wire.errors import BridgeError, ConfigError, ErrorCode

#: HS256 wants a key as long as its output (RFC 7518 section 3.2).
SECRET_BYTES_MIN: Final = 32
#: A core token is about 300 bytes; identity providers stay below 4 KiB.
TOKEN_MAX: Final = 8 * 1024
#: Tokens whose signature need not be checked again for so many seconds (80 µs each, and in a storm all of them come back),
#: about 1 kB each. Revocation and expiry are checked every time.
VERIFIED_MAX: Final = 10_000
VERIFIED_AGE: Final = 600.0
#: Clocks of phones, servers and identity providers differ by seconds, suspended machines by more (PRO-09).
LEEWAY: Final = 60.0
#: The name that the SDK compiled in as the issuer of signed user tokens (wire spec 1.6).
SIGNED_TOKEN_ISSUER: Final = "https://prod.augmentos.cloud"

_USER_ID = re.compile(r"[^\s\x00-\x1f\x7f/\\]{1,254}")


class AuthError(BridgeError):
    """A credential is missing, wrong, expired or revoked. `message` is for the client, `status` for HTTP."""

    def __init__(self, code: ErrorCode, message: str, *, status: int = 401) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified user. `expires_at` is wall-clock seconds, None for a token without end."""

    user_id: str
    token_id: str | None
    expires_at: float | None
    claims: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)


def normal_user_id(value: object) -> str | None:
    """The one spelling of a user id (CON-12), or None if this cannot be one."""
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    return text if _USER_ID.fullmatch(text) else None


# -------------------------------------------------------------------------------------------------- core tokens


class TokenVerifier:
    """Makes and checks core tokens (wire spec 1.2): HS256, `email` is the user id.

    The first secret signs; every secret verifies, so that a secret can be rotated without logging anyone out.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        require_exp: bool = False,
        leeway: float = LEEWAY,
        revoked: Iterable[str] = (),
    ) -> None:
        """Raises ConfigError for a missing or short secret."""
        self._secrets: tuple[str, ...] = ()
        #: Digest of a token whose signature was good -> until when that need not be checked again, its claims.
        self._verified: OrderedDict[bytes, tuple[float, dict[str, Any]]] = OrderedDict()
        self.require_exp = require_exp
        self.leeway = leeway
        self.revoked: set[str] = set(revoked)
        self.replace_secrets(secrets)

    def replace_secrets(self, secrets: Sequence[str]) -> None:
        """Rotate without a restart: the first signs from now on, the rest still verify."""
        if not secrets:
            raise ConfigError("auth.secret", "it is missing", "Run `glassbridge cloud init` to make one.")
        for secret in secrets:
            if len(secret.encode()) < SECRET_BYTES_MIN:
                raise ConfigError(
                    "auth.secret",
                    f"it is shorter than {SECRET_BYTES_MIN} bytes, so tokens could be forged",
                    "Run `glassbridge cloud init` to make a good one.",
                )
        self._secrets = tuple(secrets)
        self._verified.clear()

    def verify(self, token: str | None) -> Identity:
        """The user that a core token names. Raises AuthError with Mentra's words (wire spec 1.3)."""
        claims = self._decode(token)
        user_id = normal_user_id(claims.get("email"))
        if user_id is None:
            raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid core token - no user ID")
        token_id = claims.get("jti")
        if token_id is not None and (not isinstance(token_id, str) or token_id in self.revoked):
            raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid core token")
        expires = claims.get("exp")
        return Identity(user_id, token_id, float(expires) if expires is not None else None, claims)

    def verify_app_token(self, token: str) -> tuple[str, str]:
        """Package name and clear API key of an app JWT (wire spec 1.4). Raises AuthError(JWT_INVALID)."""
        try:
            claims = self._decode(token)
        except AuthError as error:
            raise AuthError(ErrorCode.JWT_INVALID, "Invalid JWT token") from error
        package, key = claims.get("packageName"), claims.get("apiKey")
        if not isinstance(package, str) or not isinstance(key, str) or not package or "email" in claims:
            raise AuthError(ErrorCode.JWT_INVALID, "Invalid JWT token")
        return package, key

    def _decode(self, token: str | None) -> dict[str, Any]:
        if not token:
            raise AuthError(ErrorCode.INVALID_TOKEN, "No core token provided")
        if len(token) > TOKEN_MAX:
            raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid core token")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        good_until = self._verified.get(digest)
        if good_until is not None and time.time() < good_until[0]:
            return dict(good_until[1])
        claims = self._check(token)
        expires = claims.get("exp")
        until = time.time() + VERIFIED_AGE
        if expires is not None:
            until = min(until, float(expires))
        self._verified[digest] = (until, claims)
        while len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return dict(claims)

    def _check(self, token: str) -> dict[str, Any]:
        required = ["exp"] if self.require_exp else []
        for secret in self._secrets:
            try:
                decoded: dict[str, Any] = jwt.decode(
                    token,
                    secret,
                    algorithms=["HS256"],
                    leeway=self.leeway,
                    options={"require": required, "verify_aud": False},
                )
            except jwt.InvalidSignatureError:
                continue  # perhaps signed with an older secret
            except (jwt.PyJWTError, ValueError, TypeError) as error:
                raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid core token") from error
            return decoded
        raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid core token")

    def mint_core_token(self, user_id: str, ttl: float | None = None, *, token_id: str | None = None) -> str:
        """A token for `user_id`, valid for `ttl` seconds or for ever. Raises ValueError for an impossible id."""
        user = normal_user_id(user_id)
        if user is None:
            raise ValueError(
                "a user id is an e-mail address of 1 to 254 characters without spaces or slashes"
            )
        now = int(time.time())
        claims: dict[str, Any] = {
            "sub": user,
            "email": user,
            "organizations": [],
            "defaultOrg": None,
            "iat": now,
            "jti": token_id or uuid4().hex,
        }
        if ttl is not None:
            claims["exp"] = now + int(ttl)
        return jwt.encode(claims, self._secrets[0], algorithm="HS256")


# -------------------------------------------------------------------------------------------------- OIDC


class OidcVerifier:
    """Accepts ID tokens of one identity provider, by issuer, audience and its published keys."""

    #: Only asymmetric algorithms: with a public key a symmetric one would be forgeable.
    ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")

    def __init__(self, *, issuer: str, audience: str, jwks_url: str, leeway: float = LEEWAY) -> None:
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        # Keys are cached for an hour; an unknown key id refetches them, at most within 5 s.
        self._keys = PyJWKClient(jwks_url, cache_keys=True, lifespan=3600, timeout=5)

    async def verify(self, token: str) -> str:
        """The user id (verified e-mail) of an ID token. Raises AuthError."""
        if not token or len(token) > TOKEN_MAX:
            raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid token")
        try:
            claims = await asyncio.to_thread(self._decode, token)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid token") from error
        user = normal_user_id(claims.get("email"))
        if user is None or claims.get("email_verified") is False:
            raise AuthError(ErrorCode.INVALID_TOKEN, "Invalid token")
        return user

    def _decode(self, token: str) -> dict[str, Any]:
        key = self._keys.get_signing_key_from_jwt(token)
        decoded: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=list(self.ALGORITHMS),
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._leeway,
            options={"require": ["exp", "iss", "aud"]},
        )
        return decoded


# -------------------------------------------------------------------------------------------------- keys of apps


def new_api_key() -> str:
    """A fresh app key with 256 bits of randomness. Show it once; store `hash_api_key` of it."""
    return random_source.token_hex(32)


def hash_api_key(key: str) -> str:
    """What is stored of an app key: lower-case hex SHA-256 (wire spec 1.5)."""
    return hashlib.sha256(key.encode()).hexdigest()


def hash_with_api_key(text: str, hashed_key: str) -> str:
    """SHA-256 over text and the stored hash, concatenated: front-end tokens and checksums (wire spec 1.5)."""
    return hashlib.sha256(text.encode() + hashed_key.encode()).hexdigest()


def api_key_matches(key: str, hashed_key: str | None) -> bool:
    """Whether `key` is the app's key, in the same time for unknown apps (`hashed_key` None) and wrong keys."""
    expected = hashed_key or hash_api_key("")
    same = hmac.compare_digest(hash_api_key(key).encode(), expected.lower().encode())
    return same and bool(hashed_key) and bool(key)


def front_end_token(user_id: str, hashed_key: str) -> str:
    """`uid:hash`, what a web view presents to its app's own back end."""
    return f"{user_id}:{hash_with_api_key(user_id, hashed_key)}"


# -------------------------------------------------------------------------------------------------- admin


class AdminAuth:
    """Checks the administrator's bearer token against its stored hash. Without a hash nobody is admin."""

    def __init__(self, token_sha256: str | None) -> None:
        self._hash = token_sha256

    def check(self, token: str) -> None:
        """Raises AuthError."""
        if not api_key_matches(token, self._hash):
            raise AuthError(ErrorCode.INVALID_TOKEN, "Admin token required")


# -------------------------------------------------------------------------------------------------- web views


class WebviewTokens:
    """Temporary tokens for web views: 64 hex digits, 60 s, single use, bound to one package (wire spec 1.6).

    A token shown by the wrong package is burnt: it has leaked.
    """

    LIFETIME: Final = 60.0
    #: One page opening makes one token; beyond this the oldest goes, it would expire within the minute anyway.
    TOKENS_MAX: Final = 10_000

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, tuple[str, str, float]] = OrderedDict()

    def issue(self, user_id: str, package: str, now: float) -> str:
        """A token for `user_id` to open the web view of `package`; `now` is monotonic seconds."""
        while self._tokens and (
            len(self._tokens) >= self.TOKENS_MAX or next(iter(self._tokens.values()))[2] < now
        ):
            self._tokens.popitem(last=False)
        token = random_source.token_hex(32)
        self._tokens[token] = (user_id, package, now + self.LIFETIME)
        return token

    def redeem(self, token: str, package: str, now: float) -> str | None:
        """The user id, once, in time and for the right package; else None."""
        found = self._tokens.pop(token, None)
        if found is None:
            return None
        user_id, bound_to, expires = found
        return user_id if bound_to == package and now <= expires else None


class SignedUserTokens:
    """Ten-minute RS256 user tokens for web views, signed with this deployment's own key.

    An app trusts them when its `MENTRAOS_CLOUD_USER_TOKEN_PUBLIC_KEY` is `public_key_pem` of this cloud.
    """

    LIFETIME: Final = 600

    def __init__(self, private_key_pem: str) -> None:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            PublicFormat,
            load_pem_private_key,
        )

        key = load_pem_private_key(private_key_pem.encode(), password=None)
        if not isinstance(key, RSAPrivateKey):
            raise ConfigError(
                "auth.signing_key", "it is not an RSA key", "Make one with `glassbridge cloud init`."
            )
        self._key = key
        self.public_key_pem: str = (
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )

    def sign(self, user_id: str, hashed_key: str) -> str:
        """A token for one user and one app."""
        now = int(time.time())
        claims = {
            "sub": user_id,
            "iss": SIGNED_TOKEN_ISSUER,
            "iat": now,
            "exp": now + self.LIFETIME,
            "frontendToken": front_end_token(user_id, hashed_key),
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "v1"})


# -------------------------------------------------------------------------------------------------- rate limits


class RateLimiter:
    """A token bucket per identity: `burst` at once, `rate` per second in the long run.

    Holds at most `identities_max` buckets; the longest unused is forgotten (it is full again by then, or nearly).
    """

    def __init__(self, rate: float, burst: float, *, identities_max: int = 10_000) -> None:
        self._rate = rate
        self._burst = burst
        self._max = identities_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def retry_after(self, identity: str, now: float, cost: float = 1.0) -> float:
        """0.0 if the request may pass (and is counted), else seconds until it may; `now` is monotonic seconds."""
        level, at = self._buckets.pop(identity, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        passed = level >= cost
        if passed:
            level -= cost
        self._buckets[identity] = (level, now)
        if len(self._buckets) > self._max:
            self._buckets.popitem(last=False)
        return 0.0 if passed else (cost - level) / self._rate


def bearer(header: str | None) -> str | None:
    """The credential of an `Authorization: Bearer …` header, or None."""
    if not header:
        return None
    scheme, _, value = header.partition(" ")
    value = value.strip()
    return value if scheme.lower() == "bearer" and value else None
