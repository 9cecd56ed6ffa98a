"""What BlueZ needs from its host on Linux: a pairing agent, an ear for what happens to bluetoothd and its adapters, and
an adapter that can be switched off and on.

Rules: Linux only; imported where it is needed. A desktop has an agent of its own, a headless Pi has none: without one
`pair()` fails and reads of encrypted characteristics hang (measured; docs/glasses/g1.md). Ours accepts "just works"
pairing and nothing that would ask a person for a number. Nothing here raises: without BlueZ there is nothing to help.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from dbus_fast import BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

logger = logging.getLogger(__name__)

BLUEZ = "org.bluez"
AGENT_PATH = "/org/glassbridge/agent"
CALL_MAX = 10.0  # s; failure catalogue BLE-06: every D-Bus call has this limit
REGISTER_AGAIN = 5.0  # s between two tries with a bluetoothd that refuses; one that appears is tried at once
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
        """One life of the bus: register with each bluetoothd that appears on it."""
        async with asyncio.timeout(CALL_MAX):
            bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        gone = asyncio.ensure_future(_until_disconnected(bus))
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
            while not gone.done():
                changed.clear()
                wait: float | None = None
                try:
                    await self._register(bus)
                except (DBusError, TimeoutError) as error:
                    # No bluetoothd, or one that is not ready yet: the moment it appears counts. Glasses that connect
                    # before us could not pair, and would be given up.
                    logger.debug("no pairing agent: %s", error)
                    wait = REGISTER_AGAIN
                waiting = asyncio.ensure_future(changed.wait())
                try:
                    await asyncio.wait({gone, waiting}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            bus.disconnect()

    async def _register(self, bus: MessageBus) -> None:
        await call(
            bus, BLUEZ, "/org/bluez", "org.bluez.AgentManager1", "RegisterAgent", "os",
            [AGENT_PATH, "NoInputNoOutput"],
        )  # fmt: skip
        self.registrations += 1
        with contextlib.suppress(DBusError):
            # Refused on desktops that have an agent; theirs does as well.
            await call(
                bus, BLUEZ, "/org/bluez", "org.bluez.AgentManager1", "RequestDefaultAgent", "o", [AGENT_PATH]
            )  # fmt: skip


async def _until_disconnected(bus: MessageBus) -> None:
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
_WATCHED = (
    f"type='signal',member='NameOwnerChanged',arg0='{BLUEZ}'",
    f"type='signal',interface='org.freedesktop.DBus.Properties',path_namespace='/org/bluez',arg0='{ADAPTER}'",
    "type='signal',interface='org.freedesktop.DBus.ObjectManager',arg0path='/org/bluez/'",
)
WATCH_PAUSE_MAX = (
    5.0  # s between two looks for a bus that has gone; failure catalogue BLE-06 allows 15 in all
)


class HostWatch:
    """Tells when bluetoothd or an adapter comes, goes, or is switched, and when a device is forgotten: bleak tells none of it (measured: a client
    believes itself connected after bluetoothd died, a scanner believes itself scanning after the adapter was off).

    `on_change(path)`: every link below this object path is dead; `on_change(None)`: something has come back.
    """

    def __init__(self, on_change: Callable[[str | None], None]) -> None:
        self._on_change = on_change
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="edge-bluez-watch")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        pause = 0.5
        while True:
            try:
                async with asyncio.timeout(CALL_MAX):
                    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
                try:
                    bus.add_message_handler(self._heard)
                    for rule in _WATCHED:
                        await call(
                            bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                            "AddMatch", "s", [rule],
                        )  # fmt: skip
                    self._on_change(None)  # whatever happened while nobody listened
                    pause = 0.5
                    await _until_disconnected(bus)
                finally:
                    bus.disconnect()
            except _BUS_ERRORS as error:
                logger.debug("the system bus is gone: %s", error)
                self._on_change("/")
            await asyncio.sleep(pause)
            pause = min(WATCH_PAUSE_MAX, pause * 2)

    def _heard(self, message: Message) -> bool:
        if message.message_type is not MessageType.SIGNAL:
            return False
        match message.member, message.body:
            case "NameOwnerChanged", [name, _, owner] if name == BLUEZ:
                self._on_change(None if owner else "/org/bluez")
            case "PropertiesChanged", [interface, changed, _] if (
                interface == ADAPTER and "Powered" in changed
            ):
                self._on_change(None if changed["Powered"].value else message.path)
            case "InterfacesAdded", [_, interfaces] if ADAPTER in interfaces:
                self._on_change(None)
            case "InterfacesRemoved", [path, interfaces] if ADAPTER in interfaces or DEVICE in interfaces:
                self._on_change(path)
        return False


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
