"""Everything that can be set on the edge: one field = name, default, unit, meaning.

Rules: flags > environment (`GLASSBRIDGE_*`, `__` nests) > TOML file > defaults. An unknown key in the file or on the
command line is an error with a suggestion. Tokens live in files that only their owner can read, or in the
environment; they are never printed. Token and endpoint are read again at every attempt to connect.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from edge.profiles import PROFILES
from edge.profiles.base import Arm
from edge.uplink_socket import endpoint
from wire.errors import ConfigError

ENV_PREFIX = "GLASSBRIDGE_"
CONFIG_FILE = "edge.toml"


def default_data_dir() -> Path:
    """XDG state of this user; /var/lib for a system service."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/glassbridge")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "glassbridge"


_ADDRESS = re.compile(
    r"^(?:[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$"
)


class Wearer(BaseModel):
    """One user with one pair of glasses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str = Field(
        "", max_length=320, description="Name on status pages; the cloud knows the user by the token."
    )
    token: SecretStr | None = Field(None, description="Core token. Better in `token_file`.")
    token_file: Path | None = Field(
        None, description="File with the core token; read at each attempt to connect."
    )
    cloud: str = Field("", description="Address of the cloud for this wearer; empty: that of the daemon.")
    glasses: str = Field(
        "",
        description="Model (`g1`), model and pair (`g1:7`), or addresses (`g1@AA:BB:CC:DD:EE:01,AA:BB:CC:DD:EE:02`). "
        "Empty: the paired ones, else the only ones in sight.",
    )

    @field_validator("glasses")
    @classmethod
    def _understandable(cls, value: str) -> str:
        parse_glasses(value)
        return value

    @field_validator("cloud")
    @classmethod
    def _reachable(cls, value: str) -> str:
        return endpoint(value) if value else value

    def read_token(self) -> str:
        """The newest token, empty if there is none. Raises ConfigError if the file cannot be read."""
        if self.token_file is None:
            return self.token.get_secret_value() if self.token is not None else ""
        try:
            return self.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"token file {self.token_file} cannot be read",
                error.strerror if isinstance(error, OSError) and error.strerror else "it is not plain text",
                "Make one with: glassbridge token new",
            ) from error


class GlassesChoice(BaseModel):
    """What `glasses` says, taken apart."""

    model: str | None = None  # key of a profile
    pair: str | None = None
    addresses: tuple[str, ...] = ()


def parse_glasses(value: str) -> GlassesChoice:
    """`""`, `model`, `model:pair`, `[model@]address[,address]`. Raises ValueError with the fix."""
    value = value.strip()
    if not value or value == "auto":
        return GlassesChoice()
    model, at, rest = value.partition("@")
    if not at and _ADDRESS.match(value.split(",")[0].strip()):
        model, rest = "", value
    elif not at:
        model, _, pair = value.partition(":")
        return GlassesChoice(model=_known(model), pair=pair or None)
    addresses = tuple(part.strip().upper() for part in rest.split(","))
    for address in addresses:
        if not _ADDRESS.match(address):
            raise ValueError(f"{address!r} is no device address (AA:BB:CC:DD:EE:FF, or a UUID on macOS)")
    key = _known(model) if model else None
    arms = len(PROFILES[key].arms) if key else 2
    if len(addresses) > arms:
        raise ValueError(f"{len(addresses)} addresses for {arms} arms: give left first, then right")
    return GlassesChoice(model=key, addresses=addresses)


def _known(model: str) -> str:
    if model in PROFILES:
        return model
    near = difflib.get_close_matches(model, PROFILES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no driver for {model!r}{hint} (there are: {', '.join(PROFILES)})")


def arms_of(model: str, addresses: tuple[str, ...]) -> dict[Arm, str]:
    """Addresses in the order of the model's arms."""
    return dict(zip(PROFILES[model].arms, addresses, strict=False))


class _TomlSource(PydanticBaseSettingsSource):
    """The parsed configuration file, handed over by `EdgeConfig.load`."""

    values: ClassVar[ContextVar[Mapping[str, Any]]] = ContextVar("edge_toml")

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self.values.get({}).get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self.values.get({}))


class EdgeConfig(BaseSettings):
    """The edge daemon's configuration. The fields of `Wearer` at the top level describe a single wearer."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    cloud: str = Field(
        "ws://127.0.0.1:8002", description="Address of the cloud; the path defaults to /glasses-ws."
    )
    radio: str = Field(
        "default",
        description="`default` (the operating system), `bumble:<HCI transport>` or `module:<argument>`.",
    )
    user: str = Field(
        "", max_length=320, description="Name on status pages; the cloud knows the user by the token."
    )
    token: SecretStr | None = Field(None, description="Core token. Better in `token_file`.")
    token_file: Path | None = Field(
        None, description="File with the core token; read at each attempt to connect."
    )
    glasses: str = Field("", description="Model, model:pair or addresses; see `wearers`.")
    wearers: tuple[Wearer, ...] = Field((), description="Several users and pairs of glasses in one daemon.")
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Paired glasses, control socket.",
    )
    control_socket: Path | None = Field(
        None, description="Local status socket; default: edge.sock in `data_dir`."
    )
    status_port: int | None = Field(
        None, ge=0, le=65535, description="Loopback port for /status and /metrics; 0: any free one."
    )
    simulated: bool = Field(False, description="Mark the glasses as simulated on every status page.")
    ca_file: Path | None = Field(
        None, description="Certificate authority of a cloud with a private certificate."
    )
    trace: Path | None = Field(
        None, description="Write every input and effect as a JSON line, without contents."
    )
    btsnoop: Path | None = Field(
        None,
        description="Write every value to and from the glasses to this file, for Wireshark. It holds what the wearer "
        "reads and says.",
    )
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least severity that is logged."
    )

    @field_validator("cloud")
    @classmethod
    def _cloud(cls, value: str) -> str:
        return endpoint(value)

    @field_validator("glasses")
    @classmethod
    def _glasses(cls, value: str) -> str:
        parse_glasses(value)
        return value

    @model_validator(mode="after")
    def _one_form(self) -> EdgeConfig:
        if self.wearers and (self.user or self.token or self.token_file or self.glasses):
            raise ValueError("either `wearers`, or user/token/token_file/glasses at the top level, not both")
        names = [wearer.user for wearer in self.wearers]
        if len(names) > 1 and ("" in names or len(set(names)) != len(names)):
            raise ValueError("several wearers need different `user` names")
        return self

    @property
    def everyone(self) -> tuple[Wearer, ...]:
        """The wearers, however they are written."""
        if self.wearers:
            return tuple(w if w.cloud else w.model_copy(update={"cloud": self.cloud}) for w in self.wearers)
        return (
            Wearer(
                user=self.user,
                token=self.token,
                token_file=self.token_file,
                cloud=self.cloud,
                glasses=self.glasses,
            ),
        )

    @property
    def socket_path(self) -> Path:
        return self.control_socket or self.data_dir / "edge.sock"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _TomlSource(settings_cls)

    @classmethod
    def load(cls, path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> EdgeConfig:
        """The configuration from `path` (default: edge.toml in the data directory, if there is one), the environment
        and `overrides` (flags; None = not given). Raises ConfigError."""
        flags = {key: value for key, value in (overrides or {}).items() if value is not None}
        file = path
        if file is None:
            directory = flags.get("data_dir") or os.environ.get(f"{ENV_PREFIX}DATA_DIR")
            file = Path(directory or default_data_dir()) / CONFIG_FILE
            if not file.exists():
                file = None
        values = _read(file) if file is not None else {}
        _refuse_unknown(values, cls.model_fields, str(file))
        wearers = values.get("wearers")
        for index, wearer in enumerate(wearers if isinstance(wearers, list) else ()):
            if isinstance(wearer, Mapping):
                _refuse_unknown(wearer, Wearer.model_fields, f"{file}, wearer {index + 1}")
        _refuse_unknown(flags, cls.model_fields, "the command line")
        reset = _TomlSource.values.set(values)
        try:
            return cls(**flags)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "configuration"
            raise ConfigError(
                f"{where} cannot be used",
                first["msg"].removeprefix("Value error, "),
                "See: glassbridge edge run --help",
            ) from None
        finally:
            _TomlSource.values.reset(reset)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read", error.strerror or str(error), "Give another one with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{file} is no TOML", why, "Mend that line") from error


def _refuse_unknown(values: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> None:
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(fields))}"
            raise ConfigError(f"unknown key {key!r} in {where}", "nothing reads it", fix)
