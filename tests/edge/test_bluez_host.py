"""The pairing agent and the power switch, against a scripted BlueZ on a private, real D-Bus."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from edge.bluez_host import AGENT_PATH, PairingAgent, power_cycle
from tests.support.edge_process import until

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="dbus-daemon is not installed")

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={path}</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""


@asynccontextmanager
async def private_bus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    path = folder / "bus.sock"
    (folder / "bus.conf").write_text(_CONFIG.format(path=path))
    daemon = await asyncio.create_subprocess_exec(
        "dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--nopidfile", "--nosyslog"
    )
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    try:
        await until(path.exists)
        yield f"unix:path={path}"
    finally:
        daemon.terminate()
        await daemon.wait()
        daemon._transport.close()  # type: ignore[attr-defined]


class FakeBluez:
    """Takes registrations and property changes."""

    def __init__(self) -> None:
        self.agents: list[tuple[str | None, str]] = []
        self.powered: list[bool] = []
        self.bus: MessageBus | None = None

    async def start(self, address: str) -> None:
        self.bus = await MessageBus(bus_address=address).connect()
        self.bus.add_message_handler(self._handle)
        await self.bus.request_name("org.bluez")

    async def stop(self) -> None:
        assert self.bus is not None
        self.bus.disconnect()
        await self.bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def _handle(self, message: Message) -> Message | bool:
        if message.message_type is not MessageType.METHOD_CALL or message.destination != "org.bluez":
            return False
        match message.member:
            case "RegisterAgent":
                self.agents.append((message.sender, message.body[1]))
            case "RequestDefaultAgent":
                return Message.new_error(message, "org.bluez.Error.Failed", "a desktop has one")
            case "GetManagedObjects":
                body = [{"/org/bluez/hci0": {"org.bluez.Adapter1": {"Powered": Variant("b", True)}}}]
                return Message.new_method_return(message, "a{oa{sa{sv}}}", body)
            case "Set":
                self.powered.append(message.body[2].value)
        return Message.new_method_return(message)

    async def ask_agent(self, member: str, signature: str, body: list[Any]) -> Message | None:
        assert self.bus is not None
        return await self.bus.call(
            Message(
                destination=self.agents[-1][0],
                path=AGENT_PATH,
                interface="org.bluez.Agent1",
                member=member,
                signature=signature,
                body=body,
            )
        )


@pytest.mark.failure("BLE-06")
async def test_the_agent_accepts_just_works_and_comes_back_with_bluetoothd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with private_bus(tmp_path, monkeypatch) as address:
        bluez = FakeBluez()
        await bluez.start(address)
        agent = PairingAgent()
        agent.start()
        await until(lambda: bluez.agents)
        assert bluez.agents[0][1] == "NoInputNoOutput"
        yes = await bluez.ask_agent("RequestAuthorization", "o", ["/org/bluez/hci0/dev_AA"])
        assert yes is not None
        assert yes.message_type is MessageType.METHOD_RETURN
        no = await bluez.ask_agent("RequestPasskey", "o", ["/org/bluez/hci0/dev_AA"])
        assert no is not None
        assert no.error_name == "org.bluez.Error.Rejected"
        await bluez.stop()
        again = FakeBluez()
        await again.start(address)
        await until(lambda: again.agents, why="registered with the new bluetoothd")
        await agent.stop()
        await again.stop()


async def test_without_a_bus_the_agent_waits_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/absent")
    agent = PairingAgent()
    agent.start()
    await asyncio.sleep(0.05)
    await agent.stop()
    assert agent.registrations == 0


@pytest.mark.failure("BLE-09")
async def test_a_power_cycle_switches_the_adapter_off_and_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with private_bus(tmp_path, monkeypatch) as address:
        bluez = FakeBluez()
        await bluez.start(address)
        await power_cycle()
        assert bluez.powered == [False, True]
        await bluez.stop()
