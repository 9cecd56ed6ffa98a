"""Everything that can be set on the cloud: one field = name, default, unit, meaning.

Rules: flags > environment (`GLASSBRIDGE_*`, `__` nests) > config.toml > secrets.toml > defaults; an unknown key is an
error with a suggestion; each value knows where it came from; secrets are never printed and live in a file that only
their owner can read. A server that others can reach does not start without secrets made for it.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import secrets as random_source
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from cloud.auth import SECRET_BYTES_MIN, hash_api_key
from wire.errors import ConfigError

ENV_PREFIX: Final = "GLASSBRIDGE_"
CONFIG_FILE: Final = "config.toml"
SECRETS_FILE: Final = "secrets.toml"
DATABASE_FILE: Final = "glassbridge.sqlite3"
#: Mentra's names, accepted for operators who move their deployment here.
ALIASES: Final = {
    "PORT": "port",
    "CLOUD_PUBLIC_HOST_NAME": "public_url",
    "AUGMENTOS_AUTH_JWT_SECRET": "auth.secret",
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AuthConfig(_Section):
    secret: SecretStr | None = Field(
        default=None, description="Signs core tokens (HS256); at least 32 bytes."
    )
    previous_secrets: tuple[SecretStr, ...] = Field(
        default=(), description="Older secrets that still verify tokens."
    )
    admin_token_sha256: SecretStr | None = Field(
        default=None, description="SHA-256 (hex) of the administrator's token."
    )
    signing_key: SecretStr | None = Field(
        default=None,
        description="RSA private key (PEM) for signed user tokens of web views; none = not offered.",
    )
    require_exp: bool = Field(default=False, description="Refuse core tokens without an expiry.")
    token_ttl: Seconds | None = Field(
        default=None, description="Lifetime of new core tokens, seconds; none = no end."
    )
    leeway: float = Field(
        default=60.0, ge=0, le=600, description="Clock difference tolerated in tokens, seconds."
    )
    oidc_issuer: str | None = Field(
        default=None, description="Accept ID tokens of this issuer at exchange-token."
    )
    oidc_audience: str | None = Field(default=None, description="Audience that those ID tokens must name.")
    oidc_jwks_url: str | None = Field(default=None, description="Where that issuer publishes its keys.")

    @model_validator(mode="after")
    def _oidc_is_whole(self) -> AuthConfig:
        given = [self.oidc_issuer, self.oidc_audience, self.oidc_jwks_url]
        if any(given) and not all(given):
            raise ValueError("oidc_issuer, oidc_audience and oidc_jwks_url belong together; set all three")
        return self


class WebhookConfig(_Section):
    allow: tuple[str, ...] = Field(
        default=(),
        description="host:port pairs with private addresses that webhooks may reach. 'loopback' = any loopback.",
    )
    allow_http: bool = Field(default=True, description="Permit http:// targets (https:// always is).")
    timeout: Seconds = Field(default=9.0, description="Longest wait for a webhook's answer, seconds.")
    concurrency_max: int = Field(default=64, ge=1, description="Webhooks in flight at once.")

    @field_validator("allow")
    @classmethod
    def _exact(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if entry != "loopback" and not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:/\s@]+):\d{1,5}", entry):
                raise ValueError(f"{entry!r} is not an exact host:port")
        return entries


class SessionConfig(_Section):
    grace: Seconds = Field(
        default=60.0, description="A session waits this long for its glasses to return, seconds."
    )
    app_grace: Seconds = Field(
        default=5.0, description="An app may be gone this long before it is restarted, seconds."
    )
    apps_per_session_max: int = Field(default=50, ge=1, description="Apps that one user may run at once.")


class DisplayConfig(_Section):
    interval: Seconds = Field(
        default=0.3, description="Shortest time between two main-view updates, seconds."
    )
    boot: Seconds = Field(default=1.5, description="Longest boot screen of a starting app, seconds.")


class LimitsConfig(_Section):
    text_bytes_max: int = Field(default=1024 * 1024, ge=1024, description="Largest text message, bytes.")
    binary_bytes_max: int = Field(default=256 * 1024, ge=1024, description="Largest binary message, bytes.")
    handshake_timeout: Seconds = Field(
        default=10.0, description="A request must be complete by then, seconds."
    )
    unauthenticated_max: int = Field(
        default=64, ge=1, description="Sockets per address that have not authenticated."
    )
    audio_frames_per_second: int = Field(
        default=400,
        ge=1,
        description="Audio frames of one session per second; 2.5 ms pieces are the smallest of any codec.",
    )
    body_bytes_max: int = Field(default=1024 * 1024, ge=1024, description="Largest JSON request body, bytes.")
    photo_bytes_max: int = Field(
        default=10 * 1024 * 1024, ge=1024, description="Largest photo upload, bytes."
    )
    permessage_deflate: bool = Field(
        default=False, description="Offer WebSocket compression (costs CPU per receiver)."
    )


class SpeechConfig(_Section):
    provider: str = Field(
        default="off",
        description="off | text | openai:<url> | wyoming:tcp://host:port. Audio leaves only to that URL.",
    )
    api_key: SecretStr | None = Field(default=None, description="Bearer key of an openai: provider.")
    model: str = Field(default="whisper-1", description="Model name given to an openai: provider.")
    timeout: Seconds = Field(default=20.0, description="Longest wait for one result, seconds.")
    interim: Seconds | None = Field(
        default=2.0, description="Speech between two partial results of openai:, seconds; none = finals only."
    )
    tts_url: str | None = Field(
        default=None, description="OpenAI-compatible speech endpoint for /api/tts; none = answered with 501."
    )
    tts_model: str = Field(default="tts-1", description="Model name for the speech endpoint.")
    tts_voice: str = Field(default="alloy", description="Voice when the app names none.")

    @field_validator("provider")
    @classmethod
    def _known(cls, value: str) -> str:
        known = (
            value in ("off", "text")
            or re.fullmatch(r"openai:https?://\S+", value)
            or re.fullmatch(r"wyoming:tcp://[^\s/:]+:\d{1,5}", value)
        )
        if not known:
            raise ValueError("must be off, text, openai:<http url> or wyoming:tcp://host:port")
        return value


class AdmissionConfig(_Section):
    lag: Seconds = Field(
        default=0.1,
        description="Event loop this late, for longer: lossy frames are shed, then newcomers get 503; seconds.",
    )
    frames_per_second: float = Field(
        default=100_000, gt=0, description="Frames handled, in and out, above which the same happens."
    )
    memory_share: float = Field(
        default=0.9, gt=0, le=1, description="Share of the memory in use above which newcomers get 503."
    )
    sessions_per_second: float = Field(
        default=200,
        gt=0,
        description="Sessions that may begin per second; others are told when to come back.",
    )
    dead_after: Seconds = Field(
        default=30.0, description="Event loop that stands still for so long: /livez answers 503; seconds."
    )


class StoreConfig(_Section):
    url: SecretStr | None = Field(
        default=None,
        description="postgresql://user:password@host/name, for nodes that share one; none = SQLite in data_dir.",
    )
    pool_max: int = Field(default=10, ge=1, le=200, description="Connections to PostgreSQL per process.")

    @field_validator("url")
    @classmethod
    def _postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match(r"postgres(ql)?://", value.get_secret_value()):
            raise ValueError("must be postgresql://user:password@host/name")
        return value


class ClusterConfig(_Section):
    nats: tuple[str, ...] = Field(
        default=(),
        description="NATS servers that join several nodes, nats://host:4222 or tls://host:4222; none = one node.",
    )
    node: str | None = Field(default=None, description="Name of this node in logs; none = the host's name.")
    cell: str = Field(
        default="glassbridge",
        pattern=r"^[A-Za-z0-9_-]{1,32}$",
        description="Prefix of everything in NATS, so that several cells may share its servers.",
    )
    token: SecretStr | None = Field(default=None, description="Token that the NATS servers ask for.")
    credentials: Path | None = Field(
        default=None, description="File with a NATS user's JWT and seed, instead of a token."
    )
    tls_ca: Path | None = Field(
        default=None, description="Certificates (PEM) to trust for tls:// servers; none = the system's."
    )
    tls_cert: Path | None = Field(
        default=None, description="This node's certificate and key in one PEM file, if servers ask for one."
    )
    replicas: int = Field(
        default=3, ge=1, le=5, description="Copies of each session record; not more than NATS servers."
    )
    buckets: int = Field(
        default=4, ge=1, le=64, description="Streams that hold the records; the same on every node, for ever."
    )

    @field_validator("nats")
    @classmethod
    def _addresses(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if not re.fullmatch(r"(nats|tls)://[^\s/]+", entry):
                raise ValueError(f"{entry!r} is not nats://host:port or tls://host:port")
        return entries


class LogConfig(_Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity logged."
    )
    format: Literal["auto", "human", "json"] = Field(
        default="auto", description="auto = human on a terminal, else JSON."
    )


_T = TypeVar("_T", bound="CloudConfig")


@dataclass(frozen=True, slots=True)
class Setting:
    """One configured value for `config show`: secrets are masked, `origin` says which layer gave it."""

    key: str
    value: str
    origin: str
    about: str


class CloudConfig(_Section):
    """The cloud's configuration. Made by `CloudConfig.load`; a bare `CloudConfig()` has no secrets."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8002, ge=0, le=65535, description="Port to listen on; 0 = any free one.")
    public_url: str | None = Field(
        default=None,
        description="How phones and apps reach this cloud, e.g. https://glass.example; none = host and port.",
    )
    data_dir: Path | None = Field(default=None, description="Where the database, secrets and photos live.")
    profile: Literal["production", "dev"] = Field(
        default="production", description="dev = throw-away secrets, loopback apps, open console."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that share the port; 2 or more need nats-server (the `cluster` extra).",
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses and networks (10.0.0.0/8) whose X-Forwarded-* headers are believed.",
    )
    drain_timeout: Seconds = Field(
        default=8.0, description="SIGTERM closes everything within this time, seconds."
    )
    auth: AuthConfig = Field(default_factory=AuthConfig)
    webhooks: WebhookConfig = Field(default_factory=WebhookConfig)
    sessions: SessionConfig = Field(default_factory=SessionConfig)
    display: DisplayConfig = Field(default_factory=DisplayConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    speech: SpeechConfig = Field(default_factory=SpeechConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    admission: AdmissionConfig = Field(default_factory=AdmissionConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    DEFAULT_ORIGIN: ClassVar[str] = "default"

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            try:
                ipaddress.ip_network(entry, strict=False)
            except ValueError:
                raise ValueError(f"{entry!r} is no IP address or network") from None
        return entries

    @field_validator("public_url", mode="before")
    @classmethod
    def _with_scheme(cls, value: Any) -> Any:
        # CLOUD_PUBLIC_HOST_NAME is a bare host name.
        if isinstance(value, str) and value and "://" not in value:
            value = f"https://{value}"
        if isinstance(value, str):
            if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
                raise ValueError("must be http:// or https:// and a host")
            value = value.rstrip("/")
        return value

    # ------------------------------------------------------------------------------------------ loading

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
    ) -> CloudConfig:
        """Read every layer and check the whole.

        `path` names the TOML file (which must then exist); else `GLASSBRIDGE_CONFIG`, else `config.toml` in the data
        directory if there is one. `overrides` are the flags, dotted (`{"auth.secret": …}`) or nested; None = not given.
        Raises ConfigError.
        """
        env = os.environ if env is None else env
        known = _known_keys(cls)
        flags = {key: value for key, value in _flatten(overrides or {}, known).items() if value is not None}
        _refuse_unknown(flags, known, "flag")
        from_env = _from_environment(env, known)

        data_dir = flags.get("data_dir") or (from_env["data_dir"][0] if "data_dir" in from_env else None)
        given_dir = Path(str(data_dir)) if data_dir is not None else default_data_dir(env)
        if path is None and env.get("GLASSBRIDGE_CONFIG"):
            path = Path(env["GLASSBRIDGE_CONFIG"])
        file = path if path is not None else given_dir / CONFIG_FILE
        from_file = _from_toml(file, known, required=path is not None)
        if data_dir is None and "data_dir" in from_file:
            given_dir = Path(str(from_file["data_dir"])).expanduser()
        secrets_file = given_dir / SECRETS_FILE
        from_secrets = _from_toml(secrets_file, known, required=False, private=True)

        merged: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for values, origin in ((from_secrets, str(secrets_file)), (from_file, str(file))):
            for key, value in values.items():
                merged[key], origins[key] = value, origin
        for key, (value, name) in from_env.items():
            merged[key], origins[key] = value, f"environment {name}"
        for key, value in flags.items():
            merged[key], origins[key] = value, "flag"
        merged.setdefault("data_dir", given_dir)
        return cls._build(merged, origins)

    @classmethod
    def _build(cls, merged: Mapping[str, Any], origins: dict[str, str]) -> CloudConfig:
        try:
            config = cls.model_validate(_nest(merged))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(str(part) for part in first["loc"] if isinstance(part, str)) or "configuration"
            where = origins.get(key)
            problem = str(first["msg"]).removeprefix("Value error, ")
            raise ConfigError(
                f"{key}" + (f" (from {where})" if where else ""),
                problem[0].lower() + problem[1:],
                "`glassbridge config show --origin` lists every value.",
            ) from None
        config._origins = origins
        return config

    # ------------------------------------------------------------------------------------------ questions

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def directory(self) -> Path:
        """The data directory."""
        return self.data_dir if self.data_dir is not None else default_data_dir(os.environ)

    @property
    def database(self) -> Path:
        return self.directory / DATABASE_FILE

    def base_url(self, port: int | None = None) -> str:
        """How clients reach this cloud; `port` is the real one when 0 was configured."""
        if self.public_url is not None:
            return self.public_url
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port or self.port}"

    def app_socket_url(self, port: int | None = None) -> str:
        """The WebSocket URL given to apps; it must end in `/app-ws` (wire spec 0, rule 1)."""
        return "ws" + self.base_url(port).removeprefix("http") + "/app-ws"

    def settings(self) -> list[Setting]:
        """Every value with its origin, in the order of this file."""
        found = []
        for key, about in _known_keys(type(self)).items():
            value: Any = self
            for part in key.split("."):
                value = getattr(value, part)
            found.append(Setting(key, _shown(value), self._origins.get(key, self.DEFAULT_ORIGIN), about))
        return found

    # ------------------------------------------------------------------------------------------ secrets

    def ready_to_serve(self) -> CloudConfig:
        """This configuration with secrets, or a ConfigError that says what is missing (PRO-06).

        `dev` gets throw-away secrets; a loopback-only server gets lasting ones, made on first use; a server that
        others can reach must have been initialised.
        """
        for name, secret in (("auth.secret", self.auth.secret), *_numbered(self.auth.previous_secrets)):
            if secret is not None and len(secret.get_secret_value().encode()) < SECRET_BYTES_MIN:
                raise ConfigError(
                    f"{name} (from {self._origins.get(name, 'configuration')})",
                    f"it is shorter than {SECRET_BYTES_MIN} bytes, so tokens could be forged",
                    "Remove it and run `glassbridge cloud init`.",
                )
        if self.profile == "dev":
            if not self.is_loopback:
                raise ConfigError(
                    "host",
                    f"the dev profile listens on {self.host}",
                    "Use 127.0.0.1 or profile = production.",
                )
            made = new_secrets().as_settings() if self.auth.secret is None else {}
            return self._with(made, "made for this run")
        if self.auth.secret is not None:
            return self
        if not self.is_loopback:
            raise ConfigError(
                f"host {self.host}",
                "others can reach it, but no secrets are configured",
                "Run `glassbridge cloud init` first.",
            )
        made_file = write_secrets(self.directory, new_secrets())
        return self._with(
            _from_toml(made_file, _known_keys(type(self)), required=True, private=True), str(made_file)
        )

    def _with(self, values: Mapping[str, Any], origin: str) -> CloudConfig:
        merged = {
            key: _deep_get(self, key)
            for key in _known_keys(type(self))
            if key in self._origins or key == "data_dir"
        }
        return self._build(merged | dict(values), self._origins | dict.fromkeys(values, origin))


# -------------------------------------------------------------------------------------------------- data directory


def default_data_dir(env: Mapping[str, str]) -> Path:
    """`GLASSBRIDGE_DATA_DIR`, else /var/lib/glassbridge for root, else the XDG state directory."""
    if env.get("GLASSBRIDGE_DATA_DIR"):
        return Path(env["GLASSBRIDGE_DATA_DIR"])
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/glassbridge")
    state = env.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "glassbridge"


def prepare_data_dir(directory: Path) -> Path:
    """Make the directory (0700) if need be and prove that it can be written. Raises ConfigError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"data directory {directory}",
            f"it cannot be written ({error.strerror or error})",
            "Choose another with --data-dir, or change its owner.",
        ) from error
    return directory


# -------------------------------------------------------------------------------------------------- secrets


@dataclass(frozen=True, slots=True)
class Secrets:
    """Fresh secrets. `admin_token` is shown once; only its hash is stored."""

    auth_secret: str
    admin_token: str
    signing_key: str | None = None

    def as_settings(self) -> dict[str, str]:
        values = {
            "auth.secret": self.auth_secret,
            "auth.admin_token_sha256": hash_api_key(self.admin_token),
        }
        if self.signing_key is not None:
            values["auth.signing_key"] = self.signing_key
        return values


def new_secrets(*, with_signing_key: bool = False) -> Secrets:
    """Random secrets; the RSA key (about 0.1 s of work) only on request."""
    key = None
    if with_signing_key:
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        key = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Secrets(
        auth_secret=random_source.token_urlsafe(48),
        admin_token=random_source.token_urlsafe(32),
        signing_key=key,
    )


def write_secrets(directory: Path, secrets: Secrets) -> Path:
    """Write `secrets.toml` (0600) into the data directory, whole or not at all; returns its path."""
    prepare_data_dir(directory)
    lines = ["# Made by glassbridge. Keep it private; whoever reads it can act as any user.\n"]
    section = ""
    for key, value in sorted(secrets.as_settings().items()):
        head, _, name = key.rpartition(".")
        if head != section:
            section = head
            lines.append(f"\n[{head}]\n")
        quoted = value.replace("\n", "\\n")
        lines.append(f'{name} = "{quoted}"\n')
    return write_private(directory / SECRETS_FILE, "".join(lines))


def write_private(path: Path, text: str, *, mode: int = 0o600) -> Path:
    """Replace a file atomically, on disk before this returns (PER-05)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


# -------------------------------------------------------------------------------------------------- layers


def _known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Dotted name and meaning of every setting."""
    known: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            known |= _known_keys(field.annotation, f"{prefix}{name}.")
        else:
            known[prefix + name] = field.description or ""
    return known


def _flatten(values: Mapping[str, Any], known: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, Mapping) and key not in known:
            flat |= _flatten(value, known, key + ".")
        else:
            flat[key] = value
    return flat


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return nested


def _deep_get(config: BaseModel, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _refuse_unknown(values: Mapping[str, Any], known: Mapping[str, str], where: str) -> None:
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            raise ConfigError(
                f"{key} ({where})",
                "there is no such setting",
                f"Did you mean {close[0]}?" if close else "`glassbridge config show` lists them all.",
            )


def _from_environment(env: Mapping[str, str], known: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Settings given by environment variables, with the variable's name.

    Other programs of the family use the same prefix, so an unknown name is an error only if it is near to a setting.
    """
    found: dict[str, tuple[Any, str]] = {}
    for name, key in ALIASES.items():
        if env.get(name):
            found[key] = (env[name], name)
    sections = {key.partition(".")[0] for key in known if "." in key}
    for name, value in env.items():
        if not name.startswith(ENV_PREFIX) or name == "GLASSBRIDGE_CONFIG":
            continue
        key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
            if close or ("." in key and key.partition(".")[0] in sections):
                _refuse_unknown({key: value}, known, f"environment {name}")
            continue
        found[key] = (_split(value) if key in _LISTS else value, name)
    return found


_LISTS: Final = frozenset({"trusted_proxies", "webhooks.allow", "auth.previous_secrets", "cluster.nats"})


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _from_toml(
    path: Path, known: Mapping[str, str], *, required: bool, private: bool = False
) -> dict[str, Any]:
    try:
        text = path.read_text()
        mode = path.stat().st_mode
    except FileNotFoundError:
        if required:
            raise ConfigError(str(path), "there is no such file", "Run `glassbridge cloud init`.") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"it cannot be read ({error})", "Check its owner and mode.") from error
    if private and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(str(path), "it holds secrets, but others may read it", f"Run `chmod 600 {path}`.")
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"it is not TOML: {error}", "Correct that line.") from error
    flat = _flatten(values, known)
    _refuse_unknown(flat, known, str(path))
    return flat


def _numbered(secrets: tuple[SecretStr, ...]) -> list[tuple[str, SecretStr]]:
    return [(f"auth.previous_secrets[{number}]", secret) for number, secret in enumerate(secrets)]


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return f"(secret, {len(value.get_secret_value())} characters)"
    if isinstance(value, tuple):
        return ", ".join(_shown(part) for part in value) or "(none)"
    return "(none)" if value is None else str(value)
