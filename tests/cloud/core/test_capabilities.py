"""What each model can do; the unknown is unknown."""

from __future__ import annotations

from cloud.core.capabilities import PROFILES, HardwareRequirement, capabilities_of, missing_hardware


def test_unknown_glasses_have_unknown_abilities() -> None:
    camera = [HardwareRequirement("CAMERA", True), HardwareRequirement("WIFI", False)]
    assert capabilities_of("Something New") is None
    assert missing_hardware(camera, None) == []
    assert missing_hardware(camera, PROFILES["Even Realities G1"]) == ["CAMERA"]
    assert missing_hardware(camera, PROFILES["Mentra Live"]) == []
