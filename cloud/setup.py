"""First set-up of a cloud: its configuration file, its secrets and the administrator's token.

Rules: nothing that exists is overwritten; nothing secret is returned twice; files are whole or absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloud.config import (
    CONFIG_FILE,
    SECRETS_FILE,
    CloudConfig,
    new_secrets,
    prepare_data_dir,
    write_private,
    write_secrets,
)
from wire.errors import ConfigError


@dataclass(frozen=True, slots=True)
class InitResult:
    """What `initialise` made. `admin_token` is None if the secrets existed already: it cannot be shown again."""

    config_path: Path
    secrets_path: Path
    config_made: bool
    admin_token: str | None


def initialise(
    data_dir: Path, *, host: str = "127.0.0.1", port: int = 8002, public_url: str | None = None
) -> InitResult:
    """Make `config.toml` and `secrets.toml` in `data_dir` where they are missing. Raises ConfigError."""
    if "\\" in host or '"' in host or any(character < " " for character in host):
        raise ConfigError("host", f"{host!r} is not an address", "Use for example 0.0.0.0 or 127.0.0.1.")
    # Checked before anything is written, so that a typing error leaves nothing behind.
    checked = CloudConfig.load(
        None, {"host": host, "port": port, "public_url": public_url, "data_dir": str(data_dir)}, env={}
    )
    prepare_data_dir(data_dir)
    config_path, secrets_path = data_dir / CONFIG_FILE, data_dir / SECRETS_FILE
    config_made = not config_path.exists()
    if config_made:
        write_private(config_path, _config_text(checked), mode=0o644)
    token = None
    if not secrets_path.exists():
        secrets = new_secrets(with_signing_key=True)
        write_secrets(data_dir, secrets)
        token = secrets.admin_token
    return InitResult(config_path, secrets_path, config_made, token)


def _config_text(config: CloudConfig) -> str:
    """A commented file: the three values that were chosen, and every other setting with its default."""
    chosen = {"host", "port", "public_url"}
    lines = [
        "# Glassbridge cloud. Flags and GLASSBRIDGE_* variables override this file; `glassbridge config show --origin`\n"
        "# says which value comes from where. Secrets live in secrets.toml beside it.\n"
    ]
    section = ""
    for setting in config.settings():
        head, _, name = setting.key.rpartition(".")
        if _is_secret(setting.key) or setting.key == "data_dir":
            continue
        if head != section:
            section = head
            lines.append(f"\n[{head}]\n")
        value = config
        for part in setting.key.split("."):
            value = getattr(value, part)
        text = _toml(value)
        mark = "" if setting.key in chosen and value is not None else "# "
        lines.append(f"# {setting.about}\n{mark}{name} = {text}\n")
    return "".join(lines)


def _is_secret(key: str) -> bool:
    return key in {
        "auth.secret",
        "auth.previous_secrets",
        "auth.admin_token_sha256",
        "auth.signing_key",
        "speech.api_key",
    }


def _toml(value: object) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    return f'"{value}"'
