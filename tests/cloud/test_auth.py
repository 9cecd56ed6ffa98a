"""Tokens, keys and limits: what is accepted, and everything that is not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from cloud.auth import (
    VERIFIED_AGE,
    VERIFIED_MAX,
    AdminAuth,
    AuthError,
    OidcVerifier,
    RateLimiter,
    SignedUserTokens,
    TokenVerifier,
    WebviewTokens,
    api_key_matches,
    bearer,
    front_end_token,
    hash_api_key,
    hash_with_api_key,
    new_api_key,
    normal_user_id,
)
from cloud.listener import Listener, Reject
from wire.errors import ConfigError, ErrorCode

SECRET = "s" * 32
OLD = "o" * 40


def signed(claims: dict[str, Any], secret: str = SECRET, **kwargs: Any) -> str:
    return jwt.encode(claims, secret, **({"algorithm": "HS256"} | kwargs))


def test_a_minted_token_names_its_user_in_lower_case() -> None:
    verifier = TokenVerifier([SECRET])
    identity = verifier.verify(verifier.mint_core_token(" Anna@Home.Example "))
    assert identity.user_id == "anna@home.example"
    assert identity.token_id
    assert identity.expires_at is None


def test_a_token_of_2025_without_expiry_and_id_is_accepted() -> None:
    token = signed(
        {"sub": "x-1", "email": "Anna@Home.example", "organizations": [], "iat": 1767225600 - 10**7}
    )
    assert TokenVerifier([SECRET]).verify(token).user_id == "anna@home.example"


def none_token() -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'email': 'a@b.c'})}."


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.failure("SEC-09")
@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "No core token provided"),
        ("", "No core token provided"),
        ("garbage", "Invalid core token"),
        ("a.b.c", "Invalid core token"),
        (none_token(), "Invalid core token"),
        (signed({"email": "a@b.c"}, "w" * 32), "Invalid core token"),
        (signed({"email": "a@b.c"}, algorithm="HS512", secret="s" * 64), "Invalid core token"),
        (signed({"email": "a@b.c"})[:-4], "Invalid core token"),
        ("x" * 100_000, "Invalid core token"),
        (signed({"email": "a@b.c", "exp": int(time.time()) - 120}), "Invalid core token"),
        (signed({"email": "a@b.c", "nbf": int(time.time()) + 86_400}), "Invalid core token"),
        (signed({"email": "a@b.c", "iat": int(time.time()) + 86_400}), "Invalid core token"),
        (signed({"sub": "only"}), "Invalid core token - no user ID"),
        (signed({"email": ["a@b.c"]}), "Invalid core token - no user ID"),
        (signed({"email": {"x": 1}}), "Invalid core token - no user ID"),
        (signed({"email": ""}), "Invalid core token - no user ID"),
        (signed({"email": "a b"}), "Invalid core token - no user ID"),
        (signed({"email": "../../etc"}), "Invalid core token - no user ID"),
        (signed({"packageName": "com.example.app", "apiKey": "k"}), "Invalid core token - no user ID"),
        (signed({"email": "a@b.c", "jti": 7}), "Invalid core token"),
    ],
)
def test_bad_core_tokens_are_refused_with_the_words_clients_know(token: str | None, message: str) -> None:
    with pytest.raises(AuthError) as refused:
        TokenVerifier([SECRET]).verify(token)
    assert refused.value.message == message
    assert refused.value.code is ErrorCode.INVALID_TOKEN
    assert refused.value.status == 401


@pytest.mark.failure("SEC-09")
def test_a_public_key_cannot_pass_as_the_shared_secret() -> None:
    pem = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    token = jwt.encode({"email": "a@b.c"}, pem, algorithm="RS256")
    with pytest.raises(AuthError):
        TokenVerifier([SECRET]).verify(token)


@pytest.mark.failure("PRO-09")
def test_half_a_minute_of_clock_skew_is_tolerated() -> None:
    verifier = TokenVerifier([SECRET])
    now = int(time.time())
    assert verifier.verify(signed({"email": "a@b.c", "iat": now + 30, "nbf": now + 30})).user_id == "a@b.c"
    assert verifier.verify(signed({"email": "a@b.c", "exp": now - 30})).user_id == "a@b.c"


def test_expiry_can_be_required() -> None:
    verifier = TokenVerifier([SECRET], require_exp=True)
    with pytest.raises(AuthError):
        verifier.verify(verifier.mint_core_token("a@b.c"))
    identity = verifier.verify(verifier.mint_core_token("a@b.c", ttl=100))
    assert identity.expires_at is not None
    assert 0 < identity.expires_at - time.time() <= 100


@pytest.mark.failure("SEC-14")
def test_a_revoked_token_is_refused_at_once() -> None:
    verifier = TokenVerifier([SECRET])
    token = verifier.mint_core_token("a@b.c", token_id="t1")
    verifier.verify(token)
    verifier.revoked.add("t1")
    with pytest.raises(AuthError):
        verifier.verify(token)


@pytest.mark.failure("SEC-09")
def test_secrets_rotate_without_logging_anyone_out() -> None:
    verifier = TokenVerifier([OLD])
    token = verifier.mint_core_token("a@b.c")
    verifier.replace_secrets([SECRET, OLD])
    assert verifier.verify(token).user_id == "a@b.c"
    fresh = verifier.mint_core_token("a@b.c")
    verifier.replace_secrets([SECRET])
    assert verifier.verify(fresh).user_id == "a@b.c"
    with pytest.raises(AuthError):
        verifier.verify(token)


@pytest.mark.failure("PRO-06")
@pytest.mark.parametrize("secrets", [[], [""], ["short"], [SECRET, "short"]])
def test_a_missing_or_short_secret_is_a_configuration_error(secrets: list[str]) -> None:
    with pytest.raises(ConfigError):
        TokenVerifier(secrets)


@pytest.mark.parametrize("user", ["", " ", "a b", "x" * 255, "a/b"])
def test_impossible_user_ids_are_refused_when_minting(user: str) -> None:
    with pytest.raises(ValueError):
        TokenVerifier([SECRET]).mint_core_token(user)
    assert normal_user_id(user) is None


def test_app_jwts_give_package_and_key_and_core_tokens_do_not() -> None:
    verifier = TokenVerifier([SECRET])
    token = signed({"packageName": "com.example.app", "apiKey": "key"})
    assert verifier.verify_app_token(token) == ("com.example.app", "key")
    for bad in (verifier.mint_core_token("a@b.c"), "x", signed({"packageName": 1, "apiKey": "k"})):
        with pytest.raises(AuthError) as refused:
            verifier.verify_app_token(bad)
        assert refused.value.code is ErrorCode.JWT_INVALID


def test_api_keys_are_compared_by_their_hash() -> None:
    key = new_api_key()
    assert len(key) == 64
    assert api_key_matches(key, hash_api_key(key))
    assert not api_key_matches(key + "x", hash_api_key(key))
    assert not api_key_matches("", hash_api_key(""))
    assert not api_key_matches(key, None)
    assert not api_key_matches("", None)


def test_hash_with_api_key_is_a_plain_concatenation() -> None:
    # SHA-256 of the two texts one behind the other, as the SDK computes it
    import hashlib

    hashed = hash_api_key("probe-api-key-0123456789")
    assert hash_with_api_key("u@x", hashed) == hashlib.sha256(f"u@x{hashed}".encode()).hexdigest()
    assert front_end_token("u@x", hashed) == f"u@x:{hash_with_api_key('u@x', hashed)}"


def test_the_admin_token_is_checked_against_its_hash() -> None:
    AdminAuth(hash_api_key("secret")).check("secret")
    for auth, token in (
        (AdminAuth(hash_api_key("secret")), "other"),
        (AdminAuth(hash_api_key("secret")), ""),
        (AdminAuth(None), ""),
        (AdminAuth(None), "x"),
    ):
        with pytest.raises(AuthError):
            auth.check(token)


def test_webview_tokens_work_once_in_time_and_for_their_package() -> None:
    tokens = WebviewTokens()
    token = tokens.issue("a@b.c", "com.a", now=0.0)
    assert len(token) == 64
    int(token, 16)
    assert tokens.redeem(token, "com.a", now=60.0) == "a@b.c"
    assert tokens.redeem(token, "com.a", now=60.0) is None, "single use"
    late = tokens.issue("a@b.c", "com.a", now=0.0)
    assert tokens.redeem(late, "com.a", now=60.1) is None
    foreign = tokens.issue("a@b.c", "com.a", now=0.0)
    assert tokens.redeem(foreign, "com.b", now=1.0) is None
    assert tokens.redeem(foreign, "com.a", now=1.0) is None, "a token that leaked is burnt"
    assert tokens.redeem("nonsense", "com.a", now=1.0) is None


def test_webview_tokens_are_bounded() -> None:
    tokens = WebviewTokens()
    tokens.TOKENS_MAX = 10  # type: ignore[misc]
    made = [tokens.issue("a@b.c", "p", now=0.0) for _ in range(11)]
    assert tokens.redeem(made[0], "p", now=0.0) is None
    assert tokens.redeem(made[1], "p", now=0.0) == "a@b.c"


def test_signed_user_tokens_verify_with_the_published_key() -> None:
    pem = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    signer = SignedUserTokens(pem)
    token = signer.sign("a@b.c", hash_api_key("k"))
    claims = jwt.decode(
        token, signer.public_key_pem, algorithms=["RS256"], issuer="https://prod.augmentos.cloud"
    )
    assert claims["sub"] == "a@b.c"
    assert claims["frontendToken"] == front_end_token("a@b.c", hash_api_key("k"))
    assert claims["exp"] - claims["iat"] == 600
    assert jwt.get_unverified_header(token)["kid"] == "v1"


def test_a_rate_limit_has_a_burst_a_rate_and_a_bound() -> None:
    limiter = RateLimiter(rate=2.0, burst=3.0, identities_max=2)
    assert [limiter.retry_after("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.retry_after("a", 0.0) == pytest.approx(0.5)
    assert limiter.retry_after("b", 0.0) == 0.0, "identities do not share a bucket"
    assert limiter.retry_after("a", 0.5) == 0.0
    assert limiter.retry_after("a", 0.5) > 0.0
    limiter.retry_after("c", 0.5)
    assert len(limiter._buckets) == 2


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("", None),
        (None, None),
    ],
)
def test_bearer_headers(header: str | None, value: str | None) -> None:
    assert bearer(header) == value


@asynccontextmanager
async def identity_provider(key: rsa.RSAPrivateKey) -> AsyncIterator[str]:
    """A real HTTP server that publishes the key of an identity provider."""
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    keys = {"keys": [jwk | {"kid": "k1", "alg": "RS256", "use": "sig"}]}
    app = Starlette(routes=[Route("/jwks", lambda request: JSONResponse(keys))])
    listener = Listener(http_app=app, upgrade=lambda request: Reject(404, {}))
    _, port = await listener.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}/jwks"
    finally:
        await listener.close()


async def test_oidc_tokens_are_checked_by_issuer_audience_key_and_expiry() -> None:
    key = rsa_key()
    async with identity_provider(key) as url:
        oidc = OidcVerifier(issuer="https://id.example", audience="glasses", jwks_url=url)
        now = int(time.time())
        good = {"iss": "https://id.example", "aud": "glasses", "exp": now + 60, "email": "Anna@Home.Example"}

        def token(changes: dict[str, Any], signer: Any = key, **headers: Any) -> str:
            claims = {name: value for name, value in (good | changes).items() if value is not None}
            return jwt.encode(claims, signer, algorithm="RS256", headers={"kid": "k1"} | headers)

        assert await oidc.verify(token({})) == "anna@home.example"
        for bad in (
            token({"iss": "https://evil.example"}),
            token({"aud": "other"}),
            token({"exp": now - 120}),
            token({"exp": None}),
            token({"email": None}),
            token({"email_verified": False}),
            token({}, rsa_key()),
            token({}, kid="unknown"),
            signed(good),
            "garbage",
            "",
        ):
            with pytest.raises(AuthError):
                await oidc.verify(bad)


def test_a_signature_is_not_trusted_longer_than_its_token() -> None:
    verifier = TokenVerifier([SECRET])
    expires = verifier.verify(verifier.mint_core_token("a@b.c", ttl=100)).expires_at
    verifier.verify(verifier.mint_core_token("b@b.c"))
    until = [until for until, _ in verifier._verified.values()]
    assert expires is not None
    assert until[0] <= expires
    assert until[1] <= time.time() + VERIFIED_AGE


def test_signatures_that_were_good_are_forgotten_oldest_first() -> None:
    verifier = TokenVerifier([SECRET])
    claims = {"email": "a@b.c"}
    for number in range(VERIFIED_MAX + 5):
        verifier._verified[number.to_bytes(4)] = (time.time() + 1.0, claims)
    verifier.verify(verifier.mint_core_token("a@b.c"))
    assert len(verifier._verified) == VERIFIED_MAX
