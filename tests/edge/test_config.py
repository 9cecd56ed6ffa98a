"""Configuration: where values come from, and what a mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import EdgeConfig, parse_glasses
from wire.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("GLASSBRIDGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GLASSBRIDGE_DATA_DIR", str(tmp_path))


def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert EdgeConfig.load().cloud == "ws://127.0.0.1:8002/glasses-ws"
    (tmp_path / "edge.toml").write_text('cloud = "wss://file.example"\nradio = "bumble:usb:0"\n')
    assert EdgeConfig.load().cloud == "wss://file.example/glasses-ws"
    monkeypatch.setenv("GLASSBRIDGE_CLOUD", "wss://env.example")
    assert EdgeConfig.load().cloud == "wss://env.example/glasses-ws"
    loaded = EdgeConfig.load(None, {"cloud": "flag.example", "radio": None})
    assert loaded.cloud == "wss://flag.example/glasses-ws"
    assert loaded.radio == "bumble:usb:0"


def test_an_unknown_key_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('clowd = "ws://x"\n')
    with pytest.raises(ConfigError, match="Did you mean 'cloud'"):
        EdgeConfig.load(file)
    file.write_text('[[wearers]]\nuser = "a"\nglases = "g1"\n')
    with pytest.raises(ConfigError, match="Did you mean 'glasses'"):
        EdgeConfig.load(file)
    with pytest.raises(ConfigError, match="status_port"):
        EdgeConfig.load(None, {"statusport": 1})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('cloud = "ftp://x"', "cloud"),
        ("status_port = 99999", "status_port"),
        ('glasses = "g9"', "no driver for 'g9'"),
        ("cloud = ", "no TOML"),
        ("wearers = " + "[" * 2000, "no TOML"),
        ("wearers = 5", "wearers"),
        ('log_level = "LOUD"', "log_level"),
    ],
)
def test_a_bad_value_names_the_member_and_the_fix(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        EdgeConfig.load(file)


def test_a_missing_file_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        EdgeConfig.load(tmp_path / "absent.toml")


def test_several_wearers_share_the_cloud_unless_they_name_their_own(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(
        'cloud = "wss://home.example"\n[[wearers]]\nuser = "anna"\nglasses = "g1:7"\n'
        '[[wearers]]\nuser = "ben"\ncloud = "wss://other.example"\n'
    )
    anna, ben = EdgeConfig.load(file).everyone
    assert anna.cloud == "wss://home.example/glasses-ws"
    assert ben.cloud == "wss://other.example/glasses-ws"


@pytest.mark.parametrize(
    "text",
    [
        'user = "x"\n[[wearers]]\nuser = "a"',
        '[[wearers]]\nuser = "a"\n[[wearers]]\nuser = "a"',
        "[[wearers]]\n[[wearers]]",
    ],
)
def test_wearers_that_cannot_be_told_apart_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="wearers"):
        EdgeConfig.load(file)


@pytest.mark.failure("CON-15")
def test_the_token_file_is_read_at_each_attempt_and_the_token_is_never_printed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    config = EdgeConfig.load(None, {"token_file": str(token)})
    (wearer,) = config.everyone
    assert wearer.read_token() == "first"
    token.write_text("second")
    assert wearer.read_token() == "second"
    token.unlink()
    with pytest.raises(ConfigError, match="token"):
        wearer.read_token()
    secret = EdgeConfig.load(None, {"token": "very-secret"})
    assert "very-secret" not in repr(secret)
    assert secret.everyone[0].read_token() == "very-secret"


@pytest.mark.parametrize(
    ("value", "model", "pair", "addresses"),
    [
        ("", None, None, ()),
        ("auto", None, None, ()),
        ("g1", "g1", None, ()),
        ("g1:74", "g1", "74", ()),
        ("aa:bb:cc:dd:ee:01,AA:BB:CC:DD:EE:02", None, None, ("AA:BB:CC:DD:EE:01", "AA:BB:CC:DD:EE:02")),
        ("g1@AA:BB:CC:DD:EE:01", "g1", None, ("AA:BB:CC:DD:EE:01",)),
        ("g1@12345678-1234-1234-1234-123456789ABC", "g1", None, ("12345678-1234-1234-1234-123456789ABC",)),
    ],
)
def test_glasses_are_named_by_model_pair_or_address(
    value: str, model: str | None, pair: str | None, addresses: tuple[str, ...]
) -> None:
    got = parse_glasses(value)
    assert (got.model, got.pair, got.addresses) == (model, pair, addresses)


@pytest.mark.parametrize(
    "value", ["g9", "g1@nonsense", "g1@AA:BB:CC:DD:EE:01,AA:BB:CC:DD:EE:02,AA:BB:CC:DD:EE:03"]
)
def test_glasses_that_make_no_sense_are_refused(value: str) -> None:
    with pytest.raises(ValueError):
        parse_glasses(value)
