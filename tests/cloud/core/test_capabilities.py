"""What each model can do; the unknown is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.core.capabilities import (
    ANNOUNCED_MAX,
    PROFILES,
    HardwareRequirement,
    announced,
    capabilities_of,
    missing_hardware,
)
from cloud.core.session import AppInfo
from tests.cloud.core.test_session import GRANTED, PACKAGE, Shell


def test_unknown_glasses_have_unknown_abilities() -> None:
    camera = [HardwareRequirement("CAMERA", True), HardwareRequirement("WIFI", False)]
    assert capabilities_of("Something New") is None
    assert missing_hardware(camera, None) == []
    assert missing_hardware(camera, PROFILES["Even Realities G1"]) == ["CAMERA"]
    assert missing_hardware(camera, PROFILES["Mentra Live"]) == []


def test_an_announced_table_is_made_whole() -> None:
    table = announced("ActiveLook", {"modelName": "ActiveLook", "hasDisplay": True, "secret": 1})
    assert table is not None
    assert table.keys() == PROFILES["Mentra Live"].keys()
    assert (table["hasDisplay"], table["hasCamera"], table["camera"]) == (True, False, None)


@pytest.mark.failure("SEC-04")
@pytest.mark.parametrize(
    "table",
    [
        None,
        {},
        {"modelName": "Other", "hasCamera": True},
        {"modelName": "X", "hasCamera": "yes"},
        {"modelName": "X", "hasCamera": None},
        {"modelName": "X", "camera": [1]},
        {"modelName": "X", "display": {"color": "x" * ANNOUNCED_MAX}},
    ],
)
def test_an_announced_table_of_another_shape_does_not_count(table: dict[str, object] | None) -> None:
    assert announced("X", table) is None


def test_apps_read_the_table_that_came_with_the_glasses_also_of_a_model_that_nobody_knows() -> None:
    shell = Shell(AppInfo(PACKAGE, "Cam", "http://app", permissions=GRANTED))
    glasses = shell.glasses()
    app = shell.app()

    def connected(model: str, **more: Any) -> None:
        shell.phone(glasses, type="glasses_connection_state", modelName=model, status="CONNECTED", **more)

    connected("ActiveLook", capabilities={"modelName": "ActiveLook", "hasDisplay": True})
    told = shell.to_app(app, "capabilities_update")
    assert told[-1]["capabilities"]["hasDisplay"] is True
    assert told[-1]["capabilities"]["hasCamera"] is False
    connected("ActiveLook", capabilities={"modelName": "ActiveLook", "hasDisplay": True})
    assert len(shell.to_app(app, "capabilities_update")) == 1, "said again, nothing new"
    connected("ActiveLook", capabilities={"modelName": "ActiveLook", "hasCamera": True})
    assert shell.to_app(app, "capabilities_update")[-1]["capabilities"]["hasCamera"] is True
    connected("Mentra Live")
    assert shell.to_app(app, "capabilities_update")[-1]["capabilities"] == PROFILES["Mentra Live"]
    connected("ActiveLook")
    assert shell.to_app(app, "capabilities_update")[-1]["capabilities"] is None
