"""The edge's own capture: every value, dated and in order, as ATT packets that Wireshark reads."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import capture
from edge.capture import Capture, CapturingRadio
from edge.profiles.base import Advert, Gatt
from edge.profiles.frame import Frame
from edge.profiles.g1 import G1
from tests.support import btsnoop
from tests.support.tools import require_tool
from wire.errors import ConfigError, GlassesError, GlassesFault

ADDRESS = "C0:5A:51:00:00:01"


class ScriptedLink:
    payload_max = 180

    def __init__(self) -> None:
        self.fault: GlassesFault | None = None
        self.closed = 0

    async def write(self, data: bytes, *, response: bool, char: str = "") -> None:
        if self.fault is not None:
            raise GlassesError(self.fault, "scripted", retryable=True)

    async def close(self) -> None:
        self.closed += 1


class ScriptedRadio:
    """A radio whose one link does what the test says."""

    fault: GlassesFault | None = None

    def __init__(self) -> None:
        self.link = ScriptedLink()
        self.refuses: GlassesFault | None = None
        self.stopped = False
        self.notify: Callable[[str, bytes], None] = lambda *_: None
        self.closed: Callable[[GlassesFault], None] = lambda _: None

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    def watch(self, listener: Callable[[Advert], None], service: str = "") -> None: ...

    def unwatch(self, listener: Callable[[Advert], None]) -> None: ...

    async def connect(
        self,
        address: str,
        gatt: Gatt,
        *,
        pair: bool,
        on_notify: Callable[[str, bytes], None],
        on_closed: Callable[[GlassesFault], None],
    ) -> ScriptedLink:
        if self.refuses is not None:
            raise GlassesError(self.refuses, "scripted", retryable=True)
        self.notify, self.closed = on_notify, on_closed
        return self.link


async def session(
    path: Path, address: str = ADDRESS, gatt: Gatt = G1.gatt
) -> tuple[list[bytes], list[GlassesFault]]:
    """Two writes, a refused one and two notifications; what the owner of the link heard."""
    ticks = iter(range(1_700_000_000, 1_700_001_000))
    below = ScriptedRadio()
    radio = CapturingRadio(below, path, clock=lambda: float(next(ticks)))
    await radio.start()
    heard: list[bytes] = []
    ends: list[GlassesFault] = []
    link = await radio.connect(
        address, gatt, pair=False, on_notify=lambda _, data: heard.append(data), on_closed=ends.append
    )
    assert link.payload_max == 180
    await link.write(b"\x4d\xfb", response=True)
    below.notify(gatt.notify[0], b"\x4d\xc9")
    await link.write(b"\x15\x00", response=False, char=gatt.write)
    below.link.fault = GlassesFault.REFUSED
    with pytest.raises(GlassesError):
        await link.write(b"\x18", response=True)
    below.notify(gatt.notify[0], b"\xf5\x01")
    below.closed(GlassesFault.LINK_LOST)
    await link.close()
    assert below.link.closed == 1
    await radio.stop()
    assert below.stopped
    return heard, ends


async def test_every_value_is_in_the_file_in_order_and_passes_on_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.btsnoop"
    heard, ends = await session(path)
    assert heard == [b"\x4d\xc9", b"\xf5\x01"]
    assert ends == [GlassesFault.LINK_LOST]
    packets = list(btsnoop.read(path))
    assert [p.written for p in packets if p.written is not None] == [b"\x4d\xfb", b"\x15\x00", b"\x18"]
    assert [p.notified for p in packets if p.notified is not None] == heard
    assert [p.pdu[0] for p in packets if p.written is not None] == [0x12, 0x52, 0x12]
    times = [p.time for p in packets]
    assert times == sorted(times)
    assert times[0] >= 1_700_000_000.0


async def tshark(path: Path, *fields: str) -> list[list[str]]:
    """What Wireshark makes of the file: one row a packet."""
    process = await asyncio.create_subprocess_exec(
        require_tool("tshark"), "-r", str(path), "-T", "fields", *(word for f in fields for word in ("-e", f)),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()
    return [line.split("\t") for line in out.decode().splitlines()]


async def test_wireshark_knows_the_address_the_service_and_each_value(tmp_path: Path) -> None:
    path = tmp_path / "a.btsnoop"
    await session(path)
    rows = await tshark(path, "_ws.col.Info", "_ws.col.Destination", "_ws.malformed")
    assert not [row for row in rows if row[2]]
    writes = [row for row in rows if "Write Request" in row[0]]
    assert "Nordic UART Service: Nordic UART Tx" in writes[0][0]
    assert ADDRESS.lower() in writes[0][1]

    await session(path, gatt=Frame.gatt)  # a service that Wireshark has no words for: bytes
    rows = await tshark(path, "btatt.value", "btatt.uuid128")
    assert [row[0] for row in rows if row[0]] == ["4dfb", "4dc9", "1500", "18", "f501"]
    assert {row[1].replace(":", "") for row in rows if row[0]} == {
        Frame.gatt.write.replace("-", ""),
        Frame.gatt.notify[0].replace("-", ""),
    }


async def test_an_address_that_is_no_mac_is_left_out(tmp_path: Path) -> None:
    await session(tmp_path / "mac.btsnoop", "6E400001-B5A3-F393-E0A9-E50E24DCCA9E")
    assert len(list(btsnoop.read(tmp_path / "mac.btsnoop"))) > 5


async def test_an_attempt_that_fails_leaves_nothing(tmp_path: Path) -> None:
    below = ScriptedRadio()
    below.refuses = GlassesFault.TIMEOUT
    radio = CapturingRadio(below, tmp_path / "a.btsnoop")
    await radio.start()
    with pytest.raises(GlassesError):
        await radio.connect(ADDRESS, G1.gatt, pair=False, on_notify=lambda *_: None, on_closed=lambda _: None)
    await radio.stop()
    assert list(btsnoop.read(tmp_path / "a.btsnoop")) == []


@pytest.mark.failure("SEC-03")
@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    Capture(tmp_path / "a.btsnoop").close()
    assert stat.S_IMODE((tmp_path / "a.btsnoop").stat().st_mode) == 0o600


async def test_a_file_that_cannot_be_made_is_told_at_the_start_and_none_is_touched_before(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        await CapturingRadio(ScriptedRadio(), tmp_path / "nowhere" / "a.btsnoop").start()
    (tmp_path / "old.btsnoop").write_text("of a daemon that runs")
    CapturingRadio(ScriptedRadio(), tmp_path / "old.btsnoop")
    assert (tmp_path / "old.btsnoop").read_text() == "of a daemon that runs"


async def test_a_full_capture_ends_and_the_radio_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(capture, "SIZE_MAX", 400)
    heard, _ = await session(tmp_path / "a.btsnoop")
    assert len(heard) == 2
    assert (tmp_path / "a.btsnoop").stat().st_size <= 400
    assert [record.message for record in caplog.records if "capture ends" in record.message] == [
        "the Bluetooth capture ends here: it has reached 0 MB"
    ]
