"""One host per port; a host that leaves, floods or talks nonsense harms nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from bumble import hci

from firmware_sim.hci_port import HciPort, SimError
from firmware_sim.radio import SimController, SimLink
from tests.support.waiting import until

RESET = bytes(hci.HCI_Reset_Command())
RESET_DONE = bytes.fromhex("040e0401030c00")


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[HciPort]:
    controller = SimController(
        "c", SimLink(), hci.Address("02:00:00:00:00:01", hci.Address.PUBLIC_DEVICE_ADDRESS)
    )
    port = HciPort(f"unix-server:{tmp_path}/hci.sock", controller)
    assert await port.open() == f"unix:{tmp_path}/hci.sock"
    yield port
    await port.close()
    assert not (tmp_path / "hci.sock").exists()


async def dial(port: HciPort) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(port.spec.removeprefix("unix-server:"))


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_host_is_answered_byte_by_byte_as_well_as_at_once(port: HciPort) -> None:
    reader, writer = await dial(port)
    writer.write(RESET)
    assert await asyncio.wait_for(reader.readexactly(7), 10) == RESET_DONE
    for byte in RESET:
        writer.write(bytes([byte]))
        await writer.drain()
    assert await asyncio.wait_for(reader.readexactly(7), 10) == RESET_DONE
    await hang_up(writer)


async def test_a_second_host_is_sent_away_and_the_first_stays(port: HciPort) -> None:
    reader, writer = await dial(port)
    await until(lambda: port.connected, "the first host")
    reader2, writer2 = await dial(port)
    assert await asyncio.wait_for(reader2.read(), 10) == b""
    writer.write(RESET)
    assert await asyncio.wait_for(reader.readexactly(7), 10) == RESET_DONE
    await hang_up(writer2)
    await hang_up(writer)


async def test_a_host_that_leaves_frees_the_port_and_resets_the_controller(port: HciPort) -> None:
    _, writer = await dial(port)
    port.controller.le_scan_enable = True
    await until(lambda: port.connected, "the host")
    await hang_up(writer)
    await until(lambda: not port.connected, "the port to be free")
    assert not port.controller.le_scan_enable
    reader, writer = await dial(port)
    writer.write(RESET)
    assert await asyncio.wait_for(reader.readexactly(7), 10) == RESET_DONE
    await hang_up(writer)


async def test_what_is_no_hci_ends_the_connection(port: HciPort) -> None:
    reader, writer = await dial(port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    (ended,) = await asyncio.wait_for(asyncio.gather(reader.read(), return_exceptions=True), 10)
    assert ended == b"" or isinstance(ended, ConnectionResetError)
    await hang_up(writer)


@pytest.mark.parametrize("spec", ["usb:0", "unix-server:", "nonsense", "tcp-server:127.0.0.1:x"])
async def test_a_wrong_address_is_named(spec: str) -> None:
    controller = SimController("c", SimLink(), hci.Address.ANY)
    with pytest.raises(SimError, match=spec):
        await HciPort(spec, controller).open()


async def test_the_socket_is_private(port: HciPort, tmp_path: Path) -> None:
    assert (tmp_path / "hci.sock").stat().st_mode & 0o777 == 0o600
