"""What BlueZ needs from its host on Linux: a pairing agent, and an adapter that can be switched off and on.

Rules: Linux only; imported where it is needed. A desktop has an agent of its own, a headless Pi has none: without one
`pair()` fails and reads of encrypted characteristics hang (measured; docs/glasses/g1.md). Ours accepts "just works"
pairing and nothing that would ask a person for a number. Nothing here raises: without BlueZ there is nothing to help.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from dbus_fast import BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

logger = logging.getLogger(__name__)

BLUEZ = "org.bluez"
AGENT_PATH = "/org/glassbridge/agent"
CALL_MAX = 10.0  # s; failure catalogue BLE-06: every D-Bus call has this limit
POWER_PAUSE = 1.0  # s between off and on: the controller resets its firmware meanwhile
#: What a broken, absent or hanging bus raises.
_BUS_ERRORS = (OSError, EOFError, DBusError, TimeoutError, ValueError)


#: Calls of org.bluez.Agent1 that "just works" pairing makes; all are accepted without an answer's contents.
ACCEPTED = frozenset({"RequestAuthorization", "AuthorizeService", "Release", "Cancel"})


class PairingAgent:
    """Registers the agent for as long as the daemon runs, and again when bluetoothd comes back."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self.registrations = 0
        self.asked = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="edge-bluez-agent")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        pause = 1.0
        while True:
            try:
                await self._serve()
                pause = 1.0
            except _BUS_ERRORS as error:
                logger.debug("no pairing agent: %s", error)
            await asyncio.sleep(pause)
            pause = min(60.0, pause * 2)

    def _answer(self, message: Message) -> Message | bool:
        """A question of bluetoothd; True means that it was ours and is answered by what is returned."""
        if message.message_type is not MessageType.METHOD_CALL or message.path != AGENT_PATH:
            return False
        if message.member in ACCEPTED:
            self.asked += 1
            return Message.new_method_return(message)
        # Whatever wants a number typed or compared: we have neither keys nor a screen.
        return Message.new_error(message, "org.bluez.Error.Rejected", "no input and no output here")

    async def _serve(self) -> None:
        """One life of bluetoothd: register, then wait until its name changes hands or the bus goes."""
        async with asyncio.timeout(CALL_MAX):
            bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        try:
            bus.add_message_handler(self._answer)
            changed = asyncio.Event()

            def watch(message: Message) -> None:
                if message.member == "NameOwnerChanged" and message.body and message.body[0] == BLUEZ:
                    changed.set()

            bus.add_message_handler(watch)
            await call(
                bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s",
                [f"type='signal',member='NameOwnerChanged',arg0='{BLUEZ}'"],
            )  # fmt: skip
            await call(
                bus, BLUEZ, "/org/bluez", "org.bluez.AgentManager1", "RegisterAgent", "os",
                [AGENT_PATH, "NoInputNoOutput"],
            )  # fmt: skip
            self.registrations += 1
            with contextlib.suppress(DBusError):
                # Refused on desktops that have an agent; theirs does as well.
                await call(
                    bus,
                    BLUEZ,
                    "/org/bluez",
                    "org.bluez.AgentManager1",
                    "RequestDefaultAgent",
                    "o",
                    [AGENT_PATH],
                )
            gone = asyncio.ensure_future(_until_disconnected(bus))
            waiting = asyncio.ensure_future(changed.wait())
            try:
                await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for future in (gone, waiting):
                    future.cancel()
                await asyncio.gather(gone, waiting, return_exceptions=True)
        finally:
            bus.disconnect()


async def _until_disconnected(bus: MessageBus) -> None:
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def call(
    bus: MessageBus,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    body: Any = None,
) -> list[Any]:
    """One D-Bus call within its limit. Raises DBusError, TimeoutError or OSError."""
    message = Message(
        destination=destination,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=body or [],
    )
    async with asyncio.timeout(CALL_MAX):
        reply = await bus.call(message)
    if reply is None:
        raise EOFError("the bus ended")
    if reply.message_type is MessageType.ERROR:
        raise DBusError(reply.error_name or "error", str(reply.body[0]) if reply.body else "")
    return list(reply.body)


async def adapters(bus: MessageBus) -> dict[str, dict[str, Any]]:
    """Object path of each adapter -> its properties."""
    (objects,) = await call(bus, BLUEZ, "/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    return {
        path: {name: variant.value for name, variant in interfaces["org.bluez.Adapter1"].items()}
        for path, interfaces in objects.items()
        if "org.bluez.Adapter1" in interfaces
    }


async def power_cycle() -> None:
    """Switch every adapter off and on. Raises like `call`."""
    async with asyncio.timeout(CALL_MAX):
        bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        for path in await adapters(bus):
            for on in (False, True):
                await call(
                    bus, BLUEZ, path, "org.freedesktop.DBus.Properties", "Set", "ssv",
                    ["org.bluez.Adapter1", "Powered", Variant("b", on)],
                )  # fmt: skip
                await asyncio.sleep(0 if on else POWER_PAUSE)
    finally:
        bus.disconnect()
