"""The bus side of the emulated bluetoothd: an object tree with its signals, and method calls that may take their time.

Rules of this file:

- Knows D-Bus and nothing of Bluetooth. Objects bring their methods; every call runs in a task of its own, begun in
  the order of arrival.
- What belongs to a caller (a scan, a notification, an agent) ends when the caller leaves the bus.
- A fault is asked for by the name of the method that it shall hit; it hits the next call and is used up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dbus_fast import Message, MessageType, NameFlag, RequestNameReply, Variant
from dbus_fast.aio import MessageBus

logger = logging.getLogger(__name__)

NAME = "org.bluez"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"

CALLS_MAX = 4096
"""Calls under way at a time; a bus daemon allows one client 128 to 50,000 unanswered ones, by its policy."""

ASK_MAX = 60.0
"""Seconds for a client (the pairing agent) to answer, as bluetoothd waits for one."""

Properties: TypeAlias = dict[str, Variant]


class BluezError(Exception):
    """An error reply: `name` without its prefix is of org.bluez.Error."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(f"{name}: {text}")
        self.name = name if "." in name else f"org.bluez.Error.{name}"
        self.text = text


class NoAnswer(Exception):
    """A call that bluetoothd forgets: its caller waits until it has waited enough."""


@dataclass(frozen=True)
class Reply:
    """What a method returns."""

    signature: str = ""
    body: tuple[Any, ...] = ()
    given: socket.socket | None = None
    """A socket handed to the client: index 0 in the body; closed here once it is sent."""


Method: TypeAlias = Callable[[Message], Awaitable[Reply | None]]


class Exported:
    """An object on the bus. Subclasses fill `methods` with (interface, member) -> what to do."""

    def __init__(self, bus: Bus, path: str, interfaces: dict[str, Properties]) -> None:
        self.bus = bus
        self.path = path
        self.interfaces = interfaces
        self.methods: dict[tuple[str, str], Method] = {}

    async def set_property(self, interface: str, name: str, value: Any) -> None:
        """Raises `BluezError`."""
        raise BluezError("org.freedesktop.DBus.Error.PropertyReadOnly", f"Property {name} is not writable")

    def export(self) -> None:
        self.bus.add(self)

    def withdraw(self) -> None:
        self.bus.remove(self)

    def change(self, interface: str, changed: Mapping[str, Variant | None]) -> None:
        """Set (None: take away) properties, and tell everybody what is really different."""
        held = self.interfaces[interface]
        new = {n: v for n, v in changed.items() if v is not None and held.get(n) != v}
        gone = [n for n, v in changed.items() if v is None and n in held]
        held.update(new)
        for name in gone:
            del held[name]
        if (new or gone) and self.bus.objects.get(self.path) is self:
            self.bus.emit(self.path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, new, gone])

    def announce(self, interface: str, name: str, value: Variant) -> None:
        """As `change`, but told even when the value is the same: every notification counts."""
        self.interfaces[interface][name] = value
        self.bus.emit(self.path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, {name: value}, []])


@dataclass(frozen=True)
class Fault:
    """What the next call of a method meets: no answer at all, or an error."""

    error: BluezError | None


class Bus:
    """One connection to the private bus, with the name org.bluez."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.objects: dict[str, Exported] = {}
        self.departures: list[Callable[[str], None]] = []
        """Called with the unique name of every client that leaves."""
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.calls = 0
        self._bus: MessageBus | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Raises OSError when there is no bus, RuntimeError when another bluetoothd owns the name."""
        bus = await MessageBus(bus_address=self.address, negotiate_unix_fd=True).connect()
        bus._writer.sock = _PatientSocket(bus._sock)  # type: ignore[union-attr]
        self._bus = bus
        bus.add_message_handler(self._on_message)
        rule = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''"
        await bus.call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="AddMatch",
                signature="s",
                body=[rule],
            )
        )

    async def own_name(self) -> None:
        """Appear as org.bluez, when all objects are there. Raises RuntimeError if another one has the name."""
        assert self._bus is not None
        if await self._bus.request_name(NAME, NameFlag.DO_NOT_QUEUE) is not RequestNameReply.PRIMARY_OWNER:
            raise RuntimeError(f"another program owns {NAME} on {self.address}")

    async def close(self) -> None:
        bus, self._bus = self._bus, None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if bus is not None:
            bus.disconnect()
            with contextlib.suppress(Exception):  # whatever ended the bus before us
                await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    @property
    def is_open(self) -> bool:
        return self._bus is not None and self._bus.connected

    async def ended(self) -> None:
        """Until the bus is gone."""
        assert self._bus is not None
        with contextlib.suppress(Exception):  # why it ended makes no difference
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task that ends with the bus at the latest."""
        task = asyncio.get_running_loop().create_task(work, name=f"bluez {name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("%s ended with %r", task.get_name(), error)

    # -- the tree ----------------------------------------------------------------------------------------------------

    def add(self, thing: Exported) -> None:
        self.objects[thing.path] = thing
        if thing.interfaces:
            self.emit("/", OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", [thing.path, thing.interfaces])

    def remove(self, thing: Exported) -> None:
        if self.objects.get(thing.path) is not thing:
            return
        del self.objects[thing.path]
        if thing.interfaces:
            body = [thing.path, list(thing.interfaces)]
            self.emit("/", OBJECT_MANAGER, "InterfacesRemoved", "oas", body)

    def emit(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        self._send(
            Message(
                message_type=MessageType.SIGNAL,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
            )
        )

    async def ask(
        self, client: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> bool:
        """Call a client; whether it agreed."""
        if self._bus is None:
            return False
        call = Message(
            destination=client, path=path, interface=interface, member=member, signature=signature, body=body
        )
        try:
            async with asyncio.timeout(ASK_MAX):
                reply = await self._bus.call(call)
        except (TimeoutError, OSError, EOFError):
            return False
        return reply is not None and reply.message_type is MessageType.METHOD_RETURN

    def _send(self, message: Message, given: socket.socket | None = None) -> None:
        def sent(done: asyncio.Future[Any]) -> None:
            # Nobody waits for it: an error of the socket ends the whole bus, and that is noticed elsewhere.
            if not done.cancelled():
                done.exception()
            if given is not None:
                given.close()

        if self._bus is not None and self._bus.connected:
            self._bus.send(message).add_done_callback(sent)
        elif given is not None:
            given.close()

    # -- calls -------------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> bool:
        if message.message_type is MessageType.SIGNAL:
            if message.member == "NameOwnerChanged" and message.body[0].startswith(":"):
                for departed in list(self.departures):
                    departed(message.body[0])
            return False
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if len(self._tasks) >= CALLS_MAX:
            self._refuse(message, BluezError("org.freedesktop.DBus.Error.LimitsExceeded", "too many calls"))
        else:
            self.calls += 1
            self.spawn(self._answer(message), f"{message.member}")
        return True

    def _refuse(self, message: Message, error: BluezError) -> None:
        self._send(Message.new_error(message, error.name, error.text))

    async def _answer(self, message: Message) -> None:
        try:
            waiting = self.faults.get(message.member or "")
            if waiting:
                fault = waiting.popleft()
                if fault.error is None:
                    return  # a hang is an answer that never comes
                raise fault.error
            reply = await self._method(message)(message) or Reply()
        except BluezError as error:
            self._refuse(message, error)
            return
        except NoAnswer:
            return
        fds = [] if reply.given is None else [reply.given.fileno()]
        self._send(Message.new_method_return(message, reply.signature, list(reply.body), fds), reply.given)

    def _method(self, message: Message) -> Method:
        key = (message.interface or "", message.member or "")
        if key == (OBJECT_MANAGER, "GetManagedObjects") and message.path == "/":
            return self._managed_objects
        thing = self.objects.get(message.path or "")
        if thing is None:
            raise BluezError(
                "org.freedesktop.DBus.Error.UnknownObject", f"no object at {message.path}: {message.member}"
            )
        if key[0] == PROPERTIES:
            return lambda call: self._properties(thing, call)
        method = thing.methods.get(key)
        if method is None:
            raise BluezError(
                "org.freedesktop.DBus.Error.UnknownMethod",
                f'Method "{key[1]}" with signature "{message.signature}" on interface "{key[0]}" doesn\'t exist',
            )
        return method

    async def _managed_objects(self, _: Message) -> Reply:
        return Reply("a{oa{sa{sv}}}", ({path: thing.interfaces for path, thing in self.objects.items()},))

    async def _properties(self, thing: Exported, message: Message) -> Reply:
        interface = message.body[0] if message.body else ""
        held = thing.interfaces.get(interface)
        if held is None:
            raise BluezError("org.freedesktop.DBus.Error.InvalidArgs", f"No such interface '{interface}'")
        match message.member:
            case "GetAll":
                return Reply("a{sv}", (held,))
            case "Get" | "Set" if message.body[1] not in held:
                raise BluezError(
                    "org.freedesktop.DBus.Error.InvalidArgs", f"No such property '{message.body[1]}'"
                )
            case "Get":
                return Reply("v", (held[message.body[1]],))
            case "Set":
                await thing.set_property(interface, message.body[1], message.body[2].value)
                return Reply()
        raise BluezError("org.freedesktop.DBus.Error.UnknownMethod", str(message.member))


class _PatientSocket:
    """A socket whose `send` takes nothing when it is full, where dbus-fast 5 takes the error for the end of the bus
    (hazard: a stalled bus and 200 kB of notifications; known since dbus-next)."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def send(self, data: Any) -> int:
        try:
            return int(self._sock.send(data))
        except BlockingIOError:
            return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
