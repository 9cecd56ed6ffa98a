"""The whole edge core in virtual time: glasses, uplink and bridge together."""

from __future__ import annotations

from edge.profiles.base import Arm
from tests.edge.world import World


def test_both_arms_connect_left_first_and_show_what_the_cloud_says() -> None:
    world = World().start()
    world.run(5)
    assert world.node.glasses.state.value == "ready"
    assert world.node.uplink.state.value == "online"
    world.show("Hello")
    world.run(1)
    assert [world.arms[arm].shows for arm in world.arms] == ["Hello", "Hello"]
    left, right = (world.arms[arm].pages[-1][0] for arm in (Arm.LEFT, Arm.RIGHT))
    assert left < right, "left is told first"
