"""`cloud init`: what it makes, and that it never overwrites."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cloud.auth import AdminAuth, SignedUserTokens
from cloud.config import CloudConfig
from cloud.setup import initialise
from wire.errors import ConfigError


def test_init_makes_a_configuration_that_loads_and_serves(tmp_path: Path) -> None:
    made = initialise(tmp_path / "data", host="0.0.0.0", port=9000, public_url="https://glass.example")
    assert made.config_made
    assert made.admin_token
    assert stat.S_IMODE(made.secrets_path.stat().st_mode) == 0o600
    config = CloudConfig.load(made.config_path, {"data_dir": str(tmp_path / "data")}, env={}).ready_to_serve()
    assert (config.host, config.port, config.public_url) == ("0.0.0.0", 9000, "https://glass.example")
    assert config.auth.admin_token_sha256 is not None
    AdminAuth(config.auth.admin_token_sha256.get_secret_value()).check(made.admin_token)
    assert config.auth.signing_key is not None
    assert "PUBLIC KEY" in SignedUserTokens(config.auth.signing_key.get_secret_value()).public_key_pem
    assert made.admin_token not in made.secrets_path.read_text()


def test_every_line_that_init_comments_out_is_valid_when_uncommented(tmp_path: Path) -> None:
    made = initialise(tmp_path)
    text = made.config_path.read_text()
    assert made.admin_token is not None
    assert made.admin_token not in text
    names = {setting.key.rpartition(".")[2] for setting in CloudConfig().settings()}
    lines = [
        line.removeprefix("# ") if line.removeprefix("# ").partition(" = ")[0] in names else line
        for line in text.splitlines()
    ]
    (tmp_path / "all.toml").write_text("\n".join(line for line in lines if '= ""' not in line))
    config = CloudConfig.load(tmp_path / "all.toml", {"data_dir": str(tmp_path)}, env={})
    assert config.sessions.grace == 60.0


def test_init_twice_changes_nothing_and_shows_nothing_secret(tmp_path: Path) -> None:
    initialise(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = initialise(tmp_path, port=1)
    assert again.admin_token is None
    assert not again.config_made
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_mistake_leaves_nothing_behind(tmp_path: Path) -> None:
    for bad in ({"port": 99999}, {"host": 'x"'}, {"public_url": "ftp://x"}):
        with pytest.raises(ConfigError):
            initialise(tmp_path / "data", **bad)  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()
