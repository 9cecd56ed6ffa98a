"""A session as the radio's log has it: Wireshark reads it, and it plays again against a fresh device and a fresh driver."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge.profiles import PROFILES
from edge.profiles.base import Arm, Battery, Event, Gesture, Touch
from firmware_sim.firmware import MODELS
from firmware_sim.firmware.base import Identity, Silence
from tests.support import btsnoop
from tests.support.btsnoop import Att
from tests.support.edge_process import until
from tests.support.rig import rig
from tests.support.tools import require_tool

pytestmark = pytest.mark.lane("bumble")


async def record(folder: Path) -> tuple[Path, Path]:
    """Text, a tap and another text on a Brilliant Frame; what the glasses' radio saw, and what the edge saw."""
    capture, own = folder / "session.btsnoop", folder / "edge.btsnoop"
    async with rig(folder, "frame", "--btsnoop", str(capture), btsnoop=str(own)) as r:
        await r.cloud.show("first words")
        await r.until_shown("first words")
        await r.act("double_tap")
        await until(lambda: r.cloud.said("touch_event"))
        await r.cloud.show("last words")
        await r.until_shown("last words")
        r.edge.process.kill()  # no goodbye: the lens keeps what it shows
        await r.edge.process.wait()
    return capture, own


async def test_wireshark_reads_the_capture_and_finds_nothing_malformed(tmp_path: Path) -> None:
    tshark = require_tool("tshark")
    capture, _ = await record(tmp_path)
    process = await asyncio.create_subprocess_exec(
        tshark, "-r", str(capture), "-T", "fields",
        "-e", "btatt.opcode", "-e", "btatt.value", "-e", "_ws.malformed", "-e", "btcommon.eir_ad.entry.device_name",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()
    rows = [(line.split("\t") + [""] * 4)[:4] for line in out.decode().splitlines()]
    assert not [row for row in rows if row[2]], "malformed packets"
    assert any(row[3].startswith("Frame ") for row in rows), "the advertisement"
    ours = [att for att in btsnoop.read(capture) if att.written is not None or att.notified is not None]
    theirs = [row for row in rows if row[0] and int(row[0], 0) in (0x12, 0x52, 0x1B)]
    assert len(theirs) == len(ours)
    # A subscription has no value in Wireshark's words, but a field of its own.
    values = [bytes.fromhex(row[1].replace(":", "")) or b"\x01\x00" for row in theirs]
    assert values == [att.pdu[3:] for att in ours]


async def test_a_captured_session_plays_again_whoever_captured_it(tmp_path: Path) -> None:
    air, own = (list(btsnoop.read(path)) for path in await record(tmp_path))
    for session in (air, own):
        assert shown_by_a_fresh_device(session) == "last words"
        events = read_by_a_fresh_driver(session)
        assert Battery(87) in events
        assert [event for event in events if isinstance(event, Touch)] == [Touch(Gesture.DOUBLE_TAP)]
    # The two agree on every value; subscribing and pairing are the host's own, and the kill cut the last moment short.
    for value in (Att.written.fget, Att.notified.fget):  # type: ignore[attr-defined]
        on_air = [v for att in air if (v := value(att)) is not None and v not in (b"\x01\x00", b"\x02\x00")]
        in_edge = [v for att in own if (v := value(att)) is not None]
        assert len(in_edge) > 20
        assert on_air[: len(in_edge)] == in_edge[: len(on_air)]
        assert abs(len(on_air) - len(in_edge)) <= 2


def shown_by_a_fresh_device(session: list[Att]) -> str:
    """The captured writes at their captured times, into firmware that has never seen them."""
    identity = Identity(1, 7, ("C0:5A:51:00:00:01", "C0:5A:51:00:00:02"), 1)
    firmware = MODELS["frame"](identity, chance=lambda: 0.5, audio=Silence())
    [name] = firmware.arms
    gatt = PROFILES["frame"].gatt
    start = session[0].time
    firmware.start(0.0)
    firmware.connected(name, 1, 247, 0.0)
    firmware.subscribed(name, 1, gatt.notify[0], True, 0.0)
    for att in session:
        # The first writes are the subscription and its like: shorter than anything that the driver says at length.
        now = att.time - start
        while firmware.deadline is not None and firmware.deadline <= now:
            firmware.handle_deadline(firmware.deadline)
        if att.written is not None and att.written not in (b"\x01\x00", b"\x02\x00"):
            firmware.written(name, 1, gatt.write, att.written, now)
    for _ in range(2000):
        if firmware.deadline is None or firmware.deadline > now + 2.0:
            break
        firmware.handle_deadline(firmware.deadline)
    return firmware.arms[name].screen.text


def read_by_a_fresh_driver(session: list[Att]) -> list[Event]:
    driver = PROFILES["frame"].driver()
    events: list[Event] = []
    for att in session:
        if driver.deadline is not None and driver.deadline <= att.time:
            events += [event for _, event in driver.handle_deadline(driver.deadline)]
        if att.notified is not None:
            events += driver.decode(Arm.WHOLE, "", att.notified, att.time)
    return events
