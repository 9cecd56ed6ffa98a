"""Scanning and the pairing ritual over a scripted stack."""

from __future__ import annotations

import asyncio

import pytest

from edge import pairing
from edge.ble import BleakRadio
from edge.pairing import Found, choose, look, pair
from edge.profiles.base import Arm
from tests.edge import fake_bleak
from tests.edge.fake_bleak import FakeClient, Script
from wire.errors import ConfigError, GlassesError, GlassesFault

L, R = Arm.LEFT, Arm.RIGHT


def found(pair: str = "7", left: int = 1, right: int = 1) -> Found:
    arms = {
        arm: [(f"{pair}{arm}{n}", -50) for n in range(count)]
        for arm, count in ((L, left), (R, right))
        if count
    }
    return Found("g1", "Even Realities G1", pair, arms)  # type: ignore[arg-type]


def test_the_only_whole_pair_is_chosen() -> None:
    assert choose([found("7"), found("8", right=0)]).pair == "7"


@pytest.mark.failure("BLE-15")
@pytest.mark.parametrize(
    ("sight", "words"),
    [
        ([], "no glasses in sight"),
        ([found("7"), found("8")], "more than one pair"),
        ([found("7", left=2)], "more than one pair"),
        ([found("7", right=0)], "only a part"),
    ],
)
def test_what_cannot_be_decided_is_asked(sight: list[Found], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as problem:
        choose(sight)
    assert "glassbridge pair" in problem.value.fix


def test_a_named_pair_is_taken_among_several() -> None:
    assert choose([found("7"), found("8")], "8").pair == "8"
    assert choose([found("7"), found("8")], "8left0").pair == "8"


def script(name: str) -> Script:
    made = fake_bleak.SCRIPTS[name] = Script()
    made.adverts = [("AA", "Even G1_7_L_0000AA"), ("BB", "Even G1_7_R_0000BB"), ("CC", "a television")]
    return made


async def test_a_scan_lists_pairs_and_tells_as_it_goes() -> None:
    script("scan")
    told: list[str] = []
    (one,) = await look("tests.edge.fake_bleak:scan", 0.1, told.append)
    assert one.complete
    assert one.addresses == {L: "AA", R: "BB"}
    assert len(told) == 2


async def test_a_whole_pair_with_nothing_new_beside_it_ends_the_search_early() -> None:
    script("early")
    began = asyncio.get_running_loop().time()
    assert await look("tests.edge.fake_bleak:early", 0.3)  # a list wants the whole time
    assert asyncio.get_running_loop().time() - began >= 0.3
    radio = BleakRadio("tests.edge.fake_bleak:early")
    await radio.start()
    (one,) = await pairing.scan(radio, 60.0, settle=0.1)
    assert one.complete
    await radio.stop()
    half = script("half")
    half.adverts = half.adverts[:1]
    radio = BleakRadio("tests.edge.fake_bleak:half")
    await radio.start()
    began = asyncio.get_running_loop().time()
    (alone,) = await pairing.scan(radio, 0.5, settle=0.1)
    assert not alone.complete
    assert asyncio.get_running_loop().time() - began >= 0.5, "the other half is waited for"
    await radio.stop()


async def test_pairing_hears_both_arms_answer() -> None:
    made = script("pair")

    async def answer() -> None:
        asyncio.get_running_loop().call_soon(_answer, made.clients[-1])

    made.hooks["write"] = answer
    told: list[str] = []
    assert (await pair("tests.edge.fake_bleak:pair", None, 0.1, told.append)).pair == "7"
    assert [line for line in told if line.endswith("answers")] == ["left: answers", "right: answers"]
    assert made.log.count("disconnect") == 2, "the links are given back"


def _answer(client: FakeClient) -> None:
    for callback in client.callbacks.values():
        callback(bytearray(b"\x4d\xc9"))


@pytest.mark.failure("BLE-13")
async def test_an_arm_that_does_not_answer_is_no_pairing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "ANSWER_MAX", 0.05)
    script("mute")
    with pytest.raises(GlassesError) as problem:
        await pair("tests.edge.fake_bleak:mute", None, 0.1)
    assert problem.value.fault is GlassesFault.PROTOCOL
