"""The configuration loaders: any file, environment and flags load, or end in one ConfigError with its three parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.config import CloudConfig, _known_keys
from tests.fuzz.strategies import corpus, json_values
from wire.errors import ConfigError

KEYS = sorted(_known_keys(CloudConfig))
FAST = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(path: Path | None, overrides: dict[str, Any], env: dict[str, str], data_dir: Path) -> None:
    env = {"GLASSBRIDGE_DATA_DIR": str(data_dir), **env}
    try:
        config = CloudConfig.load(path, overrides, env=env)
    except ConfigError as caught:
        parts = (caught.what, caught.why, caught.fix)
    else:
        assert config.settings()
        return
    assert all(parts)


@given(st.binary(max_size=200))
@FAST
def test_any_file(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(data)
    check(file, {}, {}, tmp_path)


@pytest.mark.failure("PER-05")
@pytest.mark.parametrize("data", corpus("config"))
def test_files_that_did_harm_elsewhere(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(data)
    check(file, {}, {}, tmp_path)


@given(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=3))
@FAST
def test_any_value_of_any_flag(tmp_path: Path, overrides: dict[str, Any]) -> None:
    overrides.pop("data_dir", None)
    check(None, overrides, {}, tmp_path)


env_text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)


@given(
    st.dictionaries(
        st.sampled_from(
            [f"GLASSBRIDGE_{key.upper().replace('.', '__')}" for key in KEYS] + ["PORT", "GLASSBRIDGE_NO"]
        ),
        env_text,
        max_size=3,
    )
)
@FAST
def test_any_environment(tmp_path: Path, env: dict[str, str]) -> None:
    env.pop("GLASSBRIDGE_DATA_DIR", None)
    check(None, {}, env, tmp_path)
