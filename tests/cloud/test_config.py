"""Configuration: which layer wins, which mistakes are named, and when a server refuses to start."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from cloud.config import CloudConfig, default_data_dir, new_secrets, prepare_data_dir, write_secrets
from wire.errors import ConfigError


def load(directory: Path, flags: dict[str, Any] | None = None, **env: str) -> CloudConfig:
    return CloudConfig.load(None, {"data_dir": str(directory)} | (flags or {}), env=env)


def test_defaults_listen_on_loopback_only(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.host, config.port) == ("127.0.0.1", 8002)
    assert config.is_loopback
    assert config.database.parent == tmp_path
    assert config.base_url() == "http://127.0.0.1:8002"
    assert config.app_socket_url(9000) == "ws://127.0.0.1:9000/app-ws"


def test_flags_beat_environment_beats_file_beats_secrets_beats_defaults(tmp_path: Path) -> None:
    write_secrets(tmp_path, new_secrets())
    (tmp_path / "config.toml").write_text(
        'port = 1\n[sessions]\ngrace = 10\napp_grace = 1\n[auth]\nadmin_token_sha256 = "from-config-toml"\n'
    )
    config = load(
        tmp_path,
        {"port": 3},
        GLASSBRIDGE_PORT="2",
        GLASSBRIDGE_SESSIONS__GRACE="20",
        GLASSBRIDGE_LOG__LEVEL="debug",
    )
    origins = {setting.key: setting.origin for setting in config.settings()}
    assert config.port == 3
    assert origins["port"] == "flag"
    assert config.sessions.grace == 20
    assert origins["sessions.grace"] == "environment GLASSBRIDGE_SESSIONS__GRACE"
    assert config.sessions.app_grace == 1
    assert origins["sessions.app_grace"] == str(tmp_path / "config.toml")
    assert config.auth.admin_token_sha256 is not None
    assert config.auth.admin_token_sha256.get_secret_value() == "from-config-toml"
    assert origins["auth.secret"] == str(tmp_path / "secrets.toml")
    assert origins["host"] == "default"


def test_flags_may_be_nested_or_dotted_and_none_means_not_given(tmp_path: Path) -> None:
    config = load(tmp_path, {"sessions": {"grace": 5}, "display.interval": 0.2, "port": None})
    assert (config.sessions.grace, config.display.interval, config.port) == (5, 0.2, 8002)


def test_mentras_names_are_aliases_and_ours_win(tmp_path: Path) -> None:
    secret = "x" * 40
    config = load(
        tmp_path, PORT="9999", CLOUD_PUBLIC_HOST_NAME="glass.example", AUGMENTOS_AUTH_JWT_SECRET=secret
    )
    assert config.port == 9999
    assert config.base_url() == "https://glass.example"
    assert config.app_socket_url() == "wss://glass.example/app-ws"
    assert config.auth.secret is not None
    assert config.auth.secret.get_secret_value() == secret
    assert load(tmp_path, PORT="9999", GLASSBRIDGE_PORT="1").port == 1


def test_lists_in_the_environment_are_separated_by_commas(tmp_path: Path) -> None:
    config = load(tmp_path, GLASSBRIDGE_WEBHOOKS__ALLOW="10.0.0.5:3000, [fd00::1]:80")
    assert config.webhooks.allow == ("10.0.0.5:3000", "[fd00::1]:80")


@pytest.mark.parametrize(
    ("flags", "env", "toml", "words"),
    [
        ({"prot": 1}, {}, "", ["prot", "no such setting", "port"]),
        ({}, {"GLASSBRIDGE_PROT": "1"}, "", ["GLASSBRIDGE_PROT", "port"]),
        ({}, {"GLASSBRIDGE_AUTH__SECRETT": "1"}, "", ["GLASSBRIDGE_AUTH__SECRETT", "auth.secret"]),
        ({}, {}, "[sesions]\ngrace = 1\n", ["sesions.grace", "sessions.grace"]),
        ({}, {}, "port = ", ["config.toml", "not TOML"]),
        ({"port": 70000}, {}, "", ["port", "flag"]),
        ({}, {"GLASSBRIDGE_PORT": "many"}, "", ["port", "environment GLASSBRIDGE_PORT"]),
        ({"sessions.grace": 0}, {}, "", ["sessions.grace"]),
        ({"speech.provider": "google"}, {}, "", ["speech.provider", "wyoming"]),
        ({"webhooks.allow": ["http://x"]}, {}, "", ["webhooks.allow", "host:port"]),
        ({"auth.oidc_issuer": "https://id"}, {}, "", ["auth", "all three"]),
        ({"public_url": "ftp://x"}, {}, "", ["public_url"]),
    ],
)
def test_mistakes_are_named_with_their_place_and_a_suggestion(
    tmp_path: Path, flags: dict[str, Any], env: dict[str, str], toml: str, words: list[str]
) -> None:
    if toml:
        (tmp_path / "config.toml").write_text(toml)
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, flags, **env)
    for word in words:
        assert word in str(refused.value), str(refused.value)


def test_variables_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    load(tmp_path, GLASSBRIDGE_SLOW="4", GLASSBRIDGE_CLOUD="wss://x", GLASSBRIDGE_TOKEN_FILE="t")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        CloudConfig.load(tmp_path / "nowhere.toml", env={})


def test_the_file_can_be_named_in_the_environment_and_can_choose_the_data_directory(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'data_dir = "{tmp_path / "data"}"\n')
    config = CloudConfig.load(None, env={"GLASSBRIDGE_CONFIG": str(file), "HOME": str(tmp_path)})
    assert config.directory == tmp_path / "data"


@pytest.mark.failure("SEC-03")
def test_secrets_are_never_shown(tmp_path: Path) -> None:
    made = new_secrets()
    write_secrets(tmp_path, made)
    config = load(tmp_path)
    shown = "\n".join(f"{s.key} {s.value} {s.origin} {s.about}" for s in config.settings()) + repr(config)
    for secret in (made.auth_secret, made.admin_token):
        assert secret not in shown


@pytest.mark.failure("PRO-06")
def test_a_reachable_server_without_secrets_refuses_to_start(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.5", "::", "glass.home"):
        with pytest.raises(ConfigError, match="cloud init"):
            load(tmp_path, {"host": host}).ready_to_serve()
    write_secrets(tmp_path, new_secrets())
    load(tmp_path, {"host": "0.0.0.0"}).ready_to_serve()


@pytest.mark.failure("PRO-06")
@pytest.mark.parametrize("secret", ["", "short"])
def test_an_empty_or_short_secret_refuses_to_start_everywhere(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ConfigError, match="shorter than 32 bytes"):
        load(tmp_path, {"auth.secret": secret}).ready_to_serve()


def test_a_loopback_server_makes_lasting_secrets(tmp_path: Path) -> None:
    first = load(tmp_path).ready_to_serve()
    assert first.auth.secret is not None
    again = load(tmp_path).ready_to_serve()
    assert again.auth.secret == first.auth.secret
    assert stat.S_IMODE((tmp_path / "secrets.toml").stat().st_mode) == 0o600


def test_dev_makes_secrets_for_one_run_and_writes_none(tmp_path: Path) -> None:
    config = load(tmp_path, {"profile": "dev", "port": 5}).ready_to_serve()
    assert config.auth.secret is not None
    assert config.port == 5
    assert not (tmp_path / "secrets.toml").exists()
    with pytest.raises(ConfigError, match="dev profile"):
        load(tmp_path, {"profile": "dev", "host": "0.0.0.0"}).ready_to_serve()


def test_secrets_that_others_can_read_are_refused(tmp_path: Path) -> None:
    write_secrets(tmp_path, new_secrets()).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(tmp_path)


@pytest.mark.failure("PRO-06")
def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        prepare_data_dir(tmp_path / "file" / "data")
    assert prepare_data_dir(tmp_path / "new" / "data").is_dir()


def test_where_data_lives_by_default() -> None:
    assert default_data_dir({"GLASSBRIDGE_DATA_DIR": "/x"}) == Path("/x")
    assert default_data_dir({"XDG_STATE_HOME": "/s"}) in (
        Path("/s/glassbridge"),
        Path("/var/lib/glassbridge"),
    )


@pytest.mark.failure("SEC-03")
def test_the_database_address_is_a_secret(tmp_path: Path) -> None:
    url = "postgresql://glassbridge:hunter2@db/glassbridge"
    config = CloudConfig.load(overrides={"data_dir": str(tmp_path), "store.url": url}, env={})
    assert "hunter2" not in repr(config) + str(config.settings())
    assert config.store.url is not None
    assert config.store.url.get_secret_value() == url
    with pytest.raises(ConfigError, match=r"store\.url") as caught:
        CloudConfig.load(overrides={"data_dir": str(tmp_path), "store.url": "mysql://u:hunter2@db/x"}, env={})
    assert "hunter2" not in str(caught.value)


def test_proxies_are_addresses_or_networks(tmp_path: Path) -> None:
    good = CloudConfig.load(
        overrides={"data_dir": str(tmp_path), "trusted_proxies": ("10.0.0.0/8", "::1")}, env={}
    )
    assert good.trusted_proxies == ("10.0.0.0/8", "::1")
    with pytest.raises(ConfigError, match="no IP address or network"):
        CloudConfig.load(overrides={"data_dir": str(tmp_path), "trusted_proxies": ("proxy.lan",)}, env={})
