"""The radio: scanning, connecting, writing and notifications over bleak, behind a port that knows no bleak.

Rules of this file:

- The only file that imports bleak. Its callers see `Radio`, `Link`, `Advert` and `GlassesError`, nothing else.
- Every call into the stack has a limit of its own; none is trusted to return (failure catalogue BLE-06, BLE-11).
  The limit is `asyncio.timeout`, never `wait_for`: that one swallows a cancellation in Python 3.11 when it races.
- One connection attempt at a time per adapter, and no scan while it runs (BLE-12). Every attempt that fails ends with
  a disconnect, so that no slot leaks (BLE-10).
- What a link reports is bound to that link: `closed` is told once, and never after `close()`.
- `retryable` and the fault are decided in one table, `fault_of`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from bleak import BleakAdapter, BleakClient, BleakScanner
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakCharacteristicNotFoundError,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
    BleakGATTProtocolErrorCode,
)

from edge.profiles.base import Advert, Gatt
from wire.errors import ConfigError, GlassesError, GlassesFault

if TYPE_CHECKING:
    from edge.bluez_host import HostWatch

logger = logging.getLogger(__name__)

CONNECT_MAX = 20.0  # s; BlueZ itself gives up after 20
NOTIFY_MAX = 5.0  # s; one round trip, on a link of 50 ms intervals 0.1 s
WRITE_MAX = 5.0  # s; the supervision time-out of the link is 2 s on most hosts
DISCONNECT_MAX = 5.0  # s; BlueZ 5.66 takes 2.0 to 2.8
SCAN_START_MAX = 10.0  # s
START_TRIES = 3  # looks for an adapter while bluetoothd comes or goes
START_PAUSE = 0.1  # s between them
#: The MTU exchange ends shortly after the connection; BlueZ before 5.62 never shows the result (20 for ever).
MTU_WAIT = 1.0
MTU_POLL = 0.1
#: Without any advertisement from any device for this long the scan is restarted (failure catalogue BLE-09): even in a
#: quiet house a phone or a watch advertises within a minute.
SCAN_QUIET = 60.0
POWER_CYCLE_PAUSE = 300.0  # s between two power cycles of the adapter
#: Devices remembered from scanning, newest kept: a busy train has about 200.
DEVICES_MAX = 256
FRESH = 2.0  # s; an advertisement this old is still news to a new listener: devices advertise several times a second
#: Writes of one link that the stack has at a time. A bus connection that stalls with more than 200 kB queued is ended by
#: dbus-fast (measured); four of 512 bytes never come near, and one at a time would halve the rate of commands.
WRITES_MAX = 4
BOND_DOUBTS_MAX = 2  # one may be glasses that walked away
#: dBm; from here on a bonded device whose links die at once has not got a bad link, but another key. A guess: an arm's
#: length is -50, the next room -75.
BOND_RSSI_MIN = -75
VALUE_MAX = 512  # bytes of one attribute value, by specification


class Link(Protocol):
    """One connection, subscribed and ready. Raises GlassesError only."""

    @property
    def payload_max(self) -> int:
        """Bytes that one write without response carries."""
        ...

    async def write(self, data: bytes, *, response: bool, char: str = "") -> None:
        """One ATT write; returns when the stack has it (response False) or the peer confirmed (True)."""
        ...

    async def close(self) -> None:
        """End the connection; never raises, never hangs."""
        ...


class Radio(Protocol):
    """One adapter. Raises GlassesError only."""

    @property
    def fault(self) -> GlassesFault | None:
        """What is wrong with the adapter now, or None."""
        ...

    async def start(self) -> None:
        """Make sure that there is an adapter. Raises GlassesError(ADAPTER_MISSING, ADAPTER_DOWN or PERMISSION)."""
        ...

    async def stop(self) -> None:
        """Stop scanning. Links are closed by their owners."""
        ...

    def watch(self, listener: Callable[[Advert], None], service: str = "") -> None:
        """Scan, and hand every advertisement to `listener` until `unwatch`; also devices with this service that the
        system already holds, for those do not advertise."""
        ...

    def unwatch(self, listener: Callable[[Advert], None]) -> None: ...

    async def connect(
        self,
        address: str,
        gatt: Gatt,
        *,
        pair: bool,
        on_notify: Callable[[str, bytes], None],
        on_closed: Callable[[GlassesFault], None],
    ) -> Link:
        """Connect, find the services, subscribe. Waits for its turn on the adapter."""
        ...


# ------------------------------------------------------------------------------------------------------- faults

_UNAVAILABLE = {
    BleakBluetoothNotAvailableReason.POWERED_OFF: GlassesFault.ADAPTER_DOWN,
    BleakBluetoothNotAvailableReason.DENIED_BY_USER: GlassesFault.PERMISSION,
    BleakBluetoothNotAvailableReason.DENIED_BY_SYSTEM: GlassesFault.PERMISSION,
    BleakBluetoothNotAvailableReason.DENIED_BY_UNKNOWN: GlassesFault.PERMISSION,
}
#: ATT errors that mean "this wants a bond".
_NOT_PAIRED = {
    BleakGATTProtocolErrorCode.INSUFFICIENT_AUTHENTICATION,
    BleakGATTProtocolErrorCode.INSUFFICIENT_AUTHORIZATION,
    BleakGATTProtocolErrorCode.INSUFFICIENT_ENCRYPTION,
    BleakGATTProtocolErrorCode.INSUFFICIENT_ENCRYPTION_KEY_SIZE,
}
#: BlueZ says most things in words. Part of the D-Bus error name or text -> fault; the first match counts.
_DBUS_WORDS: tuple[tuple[str, GlassesFault], ...] = (
    ("AccessDenied", GlassesFault.PERMISSION),
    ("NotReady", GlassesFault.ADAPTER_DOWN),
    ("ServiceUnknown", GlassesFault.ADAPTER_MISSING),  # bluetoothd is not running
    ("NameHasNoOwner", GlassesFault.ADAPTER_MISSING),
    ("InProgress", GlassesFault.BUSY),
    ("already in progress", GlassesFault.BUSY),  # somebody else connects this device just now
    ("Authentication", GlassesFault.NOT_PAIRED),
    ("acquired", GlassesFault.BUSY),  # "Write acquired": somebody holds the characteristic for a moment
    ("NotPermitted", GlassesFault.NOT_PAIRED),
    ("NotConnected", GlassesFault.LINK_LOST),
    ("Not connected", GlassesFault.LINK_LOST),
    ("UnknownObject", GlassesFault.LINK_LOST),  # BlueZ has dropped the device
    ("Failed to initiate write", GlassesFault.REFUSED),  # longer than the MTU of this link
    ("InvalidArguments", GlassesFault.REFUSED),  # longer than an attribute value
    ("le-connection-abort-by-local", GlassesFault.CONNECT_FAILED),
    ("br-connection", GlassesFault.CONNECT_FAILED),
    ("NoReply", GlassesFault.TIMEOUT),
    # The adapter holds as many links as it can (HCI 0x09); BlueZ mostly times out instead.
    ("CONNECTION_LIMIT", GlassesFault.BUSY),
    ("concurrent-connection-limit", GlassesFault.BUSY),
    ("connection slot", GlassesFault.BUSY),
)


def fault_of(error: BaseException) -> GlassesError:
    """The one table from what bleak, the bus and the operating system raise to our words."""
    if isinstance(error, GlassesError):
        return error
    fault = _fault(error)
    retryable = fault not in (GlassesFault.NOT_PAIRED, GlassesFault.INCOMPATIBLE, GlassesFault.PERMISSION)
    return GlassesError(fault, f"{type(error).__name__}: {error}", retryable=retryable)


def adapter_fault_of(error: BaseException) -> GlassesError:
    """As `fault_of`, for calls that have no link: what would be the end of one is that of bluetoothd or its bus."""
    failure = fault_of(error)
    if failure.fault is GlassesFault.LINK_LOST:
        return GlassesError(GlassesFault.ADAPTER_MISSING, str(failure), retryable=True)
    return failure


def _fault(error: BaseException) -> GlassesFault:
    match error:
        case TimeoutError():
            return GlassesFault.TIMEOUT
        case BleakBluetoothNotAvailableError():
            return _UNAVAILABLE.get(error.reason, GlassesFault.ADAPTER_MISSING)
        case BleakDeviceNotFoundError():
            return GlassesFault.NOT_FOUND
        case BleakCharacteristicNotFoundError():
            return GlassesFault.INCOMPATIBLE
        case BleakGATTProtocolError():
            return GlassesFault.NOT_PAIRED if error.code in _NOT_PAIRED else GlassesFault.REFUSED
        case BleakDBusError():
            words = f"{error.dbus_error} {error.dbus_error_details or ''}"
            return next((fault for word, fault in _DBUS_WORDS if word in words), GlassesFault.LINK_LOST)
        case PermissionError():
            return GlassesFault.PERMISSION
        case FileNotFoundError() | ConnectionRefusedError():
            return GlassesFault.ADAPTER_MISSING  # no system bus, no HCI socket
        case BleakError():
            words = str(error)
            return next((fault for word, fault in _DBUS_WORDS if word in words), GlassesFault.LINK_LOST)
        case _:
            # OSError, EOFError and what bleak leaks from dbus-fast: the bus or the link is gone.
            return GlassesFault.LINK_LOST


#: What a call into the stack may raise. `except Exception` stands here on purpose: bleak's backends let KeyError,
#: AttributeError and AssertionError through when the bus dies under them, and one arm must not end the process.
_ANY = Exception


# --------------------------------------------------------------------------------------------------------- radio


class _Backends:
    """The classes that bleak is told to use: its own choice, or those of a module given by name."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.scanner: dict[str, Any] = {}
        self.client: dict[str, Any] = {}
        #: How to ask for devices that the system already holds; None if this backend cannot tell.
        self.adapter: dict[str, Any] | None = {}
        self.native = spec == "default"
        self._close: Callable[[str], Any] | None = None
        self._argument = ""
        if self.native:
            return
        kind, _, argument = spec.partition(":")
        name = "firmware_sim.bleak_backend" if kind == "bumble" else kind
        if not argument or "." not in name:
            raise ConfigError(
                f"radio {spec!r} cannot be used",
                "it is neither `default`, nor `bumble:<HCI transport>`, nor `package.module:<argument>`",
                "Example: --radio bumble:unix:/run/sim.sock",
            )
        try:
            module = importlib.import_module(name)
            pair = module.radio(argument)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"radio {spec!r} cannot be used",
                f"the backend {name} does not load ({error})",
                "The simulator's radio comes with: pip install 'glassbridge[sim]'",
            ) from error
        self.scanner = {"backend": pair.scanner}
        self.client = {"backend": pair.client}
        adapter = getattr(pair, "adapter", None)
        self.adapter = {"backend": adapter} if adapter is not None else None
        self._close = getattr(module, "close_radio", None)
        self._argument = argument

    async def close(self) -> None:
        if self._close is not None:
            with contextlib.suppress(_ANY):
                async with asyncio.timeout(DISCONNECT_MAX):
                    await self._close(self._argument)


class BleakRadio:
    """A `Radio` over bleak. `spec`: `default` (the operating system) or a backend by name (see `_Backends`)."""

    def __init__(self, spec: str = "default") -> None:
        self._backends = _Backends(spec)
        self._listeners: list[Callable[[Advert], None]] = []
        self._devices: OrderedDict[str, BLEDevice] = OrderedDict()
        self._fresh: dict[str, tuple[float, Advert]] = {}  # last advertisement of each remembered device
        self._connecting = asyncio.Lock()
        self._busy = 0  # connection attempts under way or waiting
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()  # the scanner is not running
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._last_heard = 0.0
        self._fault: GlassesFault | None = None
        self._quiet = False  # nothing heals this adapter's silence; until something is heard
        self._cache_cleared: dict[str, float] = {}
        self._held: set[str] = set()  # addresses of our own links
        self._services: set[str] = set()  # of the models that are looked for: what to ask the system for
        self._adopt_due = True
        self._power_cycled: float | None = None
        self._links: set[_BleakLink] = set()
        self._host: HostWatch | None = None
        self._disturbed = asyncio.Event()  # the host's Bluetooth came, went or was switched: scan anew
        self._bond_doubts: dict[
            str, int
        ] = {}  # attempts in a row on a bonded device that look like a lost key
        self.quiet_scans = 0
        self.scan_restarts = 0

    @property
    def fault(self) -> GlassesFault | None:
        return GlassesFault.ADAPTER_QUIET if self._fault is None and self._quiet else self._fault

    async def start(self) -> None:
        for left in reversed(range(START_TRIES)):
            scanner = BleakScanner(self._heard, **self._backends.scanner)
            try:
                async with asyncio.timeout(SCAN_START_MAX):
                    await scanner.start()
                    await scanner.stop()
                break
            except _ANY as error:
                # bleak has one bus connection for the whole process, and `_forget_bluez` may cut it under this very
                # call when bluetoothd has just ended: the next try hears from the bus itself how things stand.
                if not left or fault_of(error).fault is not GlassesFault.LINK_LOST:
                    raise adapter_fault_of(error) from error
                await asyncio.sleep(START_PAUSE)
        self._fault = None
        if self._backends.native and sys.platform == "linux":
            from edge.bluez_host import HostWatch  # D-Bus: Linux only

            self._host = HostWatch(self._host_changed)
            self._host.start()
        self._task = asyncio.create_task(self._scan(), name="edge-scan")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._host is not None:
            await self._host.stop()
            self._host = None
        await self._backends.close()

    def _host_changed(self, gone: str | None) -> None:
        """Bluetooth of the host came back (None), or all below an object path of BlueZ is dead (BLE-06)."""
        if gone is not None:
            for link in tuple(self._links):
                link.lost_below(gone)
            if "/org/bluez".startswith(gone):
                _forget_bluez()
            elif "/dev_" in gone:
                return  # one device: nothing that the scan is about
        self._disturbed.set()
        self._changed.set()

    def watch(self, listener: Callable[[Advert], None], service: str = "") -> None:
        if listener not in self._listeners:
            self._listeners.append(listener)
            if service:
                self._services.add(service)
            self._adopt_due = True
            self._changed.set()
            # Stacks report a device once and then only when something about it changes.
            now = asyncio.get_running_loop().time()
            for at, advert in [*self._fresh.values()]:
                if now - at <= FRESH:
                    listener(advert)

    def unwatch(self, listener: Callable[[Advert], None]) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
            self._changed.set()

    async def connect(
        self,
        address: str,
        gatt: Gatt,
        *,
        pair: bool,
        on_notify: Callable[[str, bytes], None],
        on_closed: Callable[[GlassesFault], None],
    ) -> Link:
        self._busy += 1
        self._changed.set()
        try:
            async with self._connecting:
                async with asyncio.timeout(SCAN_START_MAX + DISCONNECT_MAX):
                    await self._idle.wait()
                device = self._devices.get(address)
                if device is None:
                    raise GlassesError(GlassesFault.NOT_FOUND, f"{address} has not been seen", retryable=True)

                def released() -> None:
                    self._held.discard(address)
                    self._links.discard(link)

                link = _BleakLink(device, gatt, self._backends, on_notify, on_closed, released)
                self._held.add(address)
                self._links.add(link)
                _, seen = self._fresh.pop(address, (0.0, None))
                try:
                    await link.open(pair)
                except GlassesError as error:
                    if error.fault is GlassesFault.INCOMPATIBLE:
                        await self._clear_cache(address)
                    elif link.bonded and link.aborts and not _is_far(seen):
                        await self._doubt_bond(address, link)
                    raise
                self._bond_doubts.pop(address, None)
                return link
        except TimeoutError as error:
            raise fault_of(error) from error
        finally:
            self._busy -= 1
            self._changed.set()

    # --------------------------------------------------------------------------------------------------- scanning

    async def _scan(self) -> None:
        """Scan while somebody watches and nobody connects; a stack that fails is asked again, ever more rarely."""
        pause = 1.0
        while True:
            self._changed.clear()
            if not self._listeners or self._busy:
                await self._changed.wait()
                continue
            try:
                await self._scan_once()
                pause = 1.0
                self._fault = None
            except GlassesError as error:
                if self._fault is not error.fault:
                    logger.warning("scanning failed: %s", error)
                self._fault = error.fault
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._disturbed.wait()
                pause = min(30.0, pause * 2)

    async def _scan_once(self) -> None:
        loop = asyncio.get_running_loop()
        scanner = BleakScanner(self._heard, **self._backends.scanner)
        self._idle.clear()
        self._disturbed.clear()
        try:
            async with asyncio.timeout(SCAN_START_MAX):
                await scanner.start()
            self._fault = None
            self._last_heard = loop.time()
            self._adopt_due = True
            while self._listeners and not self._busy and not self._disturbed.is_set():
                if self._adopt_due:
                    await self._adopt()
                quiet = self._last_heard + SCAN_QUIET - loop.time()
                if quiet <= 0:
                    await self._wake_adapter()
                    return
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(quiet):
                        await self._changed.wait()
        except _ANY as error:
            raise adapter_fault_of(error) from error
        finally:
            with contextlib.suppress(_ANY):
                async with asyncio.timeout(DISCONNECT_MAX):
                    await scanner.stop()
            self._idle.set()

    async def _adopt(self) -> None:
        """A device that the system still holds from before a crash does not advertise (BLE-08): hand it over as seen,
        and the connection attempt takes the link over."""
        self._adopt_due = False
        if self._backends.adapter is None or not self._services:
            return
        with contextlib.suppress(_ANY):
            async with asyncio.timeout(NOTIFY_MAX):
                adapter = await BleakAdapter.get(**self._backends.adapter)
                for device in await adapter.get_connected_devices(sorted(self._services)):
                    if device.address not in self._held:
                        self._saw(device, Advert(device.address, device.name))

    async def _wake_adapter(self) -> None:
        """Silence from all devices: scan anew, the second time switch the adapter off and on, at most once in 5
        minutes; then it is the hardware's fault, and said so (failure catalogue BLE-09)."""
        now = asyncio.get_running_loop().time()
        self.scan_restarts += 1
        self.quiet_scans += 1
        logger.info("no advertisement from any device for %.0f s: scanning again", SCAN_QUIET)
        if self.quiet_scans < 2:
            return
        cannot = not self._backends.native or sys.platform != "linux"
        if cannot or (self._power_cycled is not None and now - self._power_cycled < POWER_CYCLE_PAUSE):
            if not self._quiet:
                logger.warning("no device at all is heard: the adapter hangs, or nothing advertises here")
            self._quiet = True
            return
        self._power_cycled = now
        logger.warning("still no advertisement: switching the Bluetooth adapter off and on")
        from edge.bluez_host import power_cycle  # D-Bus: Linux only

        with contextlib.suppress(_ANY):
            async with asyncio.timeout(SCAN_START_MAX):
                await power_cycle()

    def _heard(self, device: BLEDevice, data: AdvertisementData) -> None:
        self._last_heard = asyncio.get_running_loop().time()
        self.quiet_scans = 0
        self._quiet = False
        self._saw(
            device,
            Advert(
                device.address,
                data.local_name or device.name,
                data.rssi,
                tuple(data.service_uuids),
                dict(data.manufacturer_data),
            ),
        )

    def _saw(self, device: BLEDevice, advert: Advert) -> None:
        self._devices[device.address] = device
        self._devices.move_to_end(device.address)
        self._fresh[device.address] = (asyncio.get_running_loop().time(), advert)
        while len(self._devices) > DEVICES_MAX:
            oldest, _ = self._devices.popitem(last=False)
            self._fresh.pop(oldest, None)
        for listener in tuple(self._listeners):
            listener(advert)

    async def _doubt_bond(self, address: str, link: _BleakLink) -> None:
        """Glasses that lost their key make every link of BlueZ end before it is one, for ever (measured); bleak tries
        again until its time is over. The second time in a row our half is given up too, for this device alone, and the
        next attempt pairs anew (BLE-13)."""
        self._bond_doubts[address] = self._bond_doubts.get(address, 0) + 1
        if self._bond_doubts[address] >= BOND_DOUBTS_MAX:
            del self._bond_doubts[address]
            logger.warning("%s does not answer as a bonded device: its bond is given up", address)
            self._devices.pop(address, None)
            await link.unpair()

    async def _clear_cache(self, address: str) -> None:
        """BlueZ keeps service tables on disk; after a firmware update they are wrong (BLE-07). Once in 5 minutes."""
        now = asyncio.get_running_loop().time()
        if sys.platform != "linux" or not self._backends.native:
            return
        if now - self._cache_cleared.get(address, -300.0) < 300.0:
            return
        self._cache_cleared[address] = now
        from bleak_retry_connector import clear_cache  # reads BlueZ: Linux only

        with contextlib.suppress(_ANY):
            async with asyncio.timeout(DISCONNECT_MAX):
                await clear_cache(address)


def _is_far(seen: Advert | None) -> bool:
    """-127 is what bleak says where BlueZ does not know."""
    return seen is not None and seen.rssi is not None and -127 < seen.rssi < BOND_RSSI_MIN


def _forget_bluez() -> None:
    """Make bleak read BlueZ's objects anew: what a dead bluetoothd had connected stays "connected" in its copy, so that
    it takes such devices over instead of connecting them, again and again (measured). bleak has no public call."""
    from bleak.backends.bluezdbus.manager import _global_instances  # Linux only

    manager = _global_instances.get(asyncio.get_running_loop())
    if manager is not None and manager._bus is not None:
        manager._bus.disconnect()  # its own watcher then drops all that it knew, and the next call connects anew


class _BleakLink:
    """One bleak client, used for one connection and thrown away."""

    def __init__(
        self,
        device: BLEDevice,
        gatt: Gatt,
        backends: _Backends,
        on_notify: Callable[[str, bytes], None],
        on_closed: Callable[[GlassesFault], None],
        on_released: Callable[[], None],
    ) -> None:
        self._gatt = gatt
        self._on_released = on_released
        self._on_notify = on_notify
        self._on_closed = on_closed
        self._native = backends.native
        details = (
            device.details if isinstance(device.details, dict) else {}
        )  # BlueZ: the object and its properties
        self._path = str(details.get("path", ""))
        self.bonded = bool(details.get("props", {}).get("Paired"))
        # The callback comes many times, and late (measured: 13 times in one failing connect): the future counts once.
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._up = False
        self.aborts = 0  # links that ended before they were up: bleak's own retries
        self._open = False
        self._released: asyncio.Task[None] | None = None
        self._client = BleakClient(
            device, disconnected_callback=self._disconnected, timeout=CONNECT_MAX, **backends.client
        )
        self._chars: dict[str, BleakGATTCharacteristic] = {}
        self._writes = asyncio.Semaphore(WRITES_MAX)
        self.payload_max = 20

    async def open(self, pair: bool) -> None:
        """All steps to a subscribed link, or GlassesError and nothing left behind."""
        pairing = False
        try:
            await self._connect()
            self._up = True
            if pair and not (self._native and sys.platform == "darwin"):
                # macOS bonds by itself when an encrypted attribute is touched, and has no call for it.
                pairing = True
                async with asyncio.timeout(CONNECT_MAX):
                    await self._client.pair()
                pairing = False
            self._find()
            self.payload_max = await self._payload()
            for uuid in self._gatt.notify:
                async with asyncio.timeout(NOTIFY_MAX):
                    await self._client.start_notify(self._chars[uuid], self._notifier(uuid))
            if self._gone.done():
                raise GlassesError(
                    GlassesFault.LINK_LOST, "the link was lost while it was made", retryable=True
                )
        except BaseException as error:
            await self.close()
            if not isinstance(error, _ANY):
                raise
            failure = fault_of(error)
            if failure.fault is GlassesFault.LINK_LOST and not self._up:
                failure = GlassesError(GlassesFault.CONNECT_FAILED, str(failure), retryable=True)
            if failure.fault in (GlassesFault.LINK_LOST, GlassesFault.REFUSED) and pairing:
                # Glasses that keep one bond hang up on a second host (Brilliant Frame does).
                failure = GlassesError(GlassesFault.NOT_PAIRED, str(failure), retryable=False)
            raise failure from error
        self._open = True

    async def _connect(self) -> None:
        """bluetoothd 5.66 never answers a `Connect` that the controller refuses at once (it holds as many links as it
        can): it forgets a device without a bond instead (measured). Its object's end is then the answer."""
        connecting = asyncio.ensure_future(self._client.connect())
        try:
            async with asyncio.timeout(CONNECT_MAX + 1.0):
                await asyncio.wait({connecting, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise GlassesError(
                    GlassesFault.CONNECT_FAILED, "the system gave the attempt up", retryable=True
                )
            await connecting
        finally:
            for _ in range(2):  # bleak answers the first by asking bluetoothd to stop, which may hang
                if not connecting.done():
                    connecting.cancel()
                    await asyncio.wait({connecting}, timeout=DISCONNECT_MAX)
            if connecting.done() and not connecting.cancelled():
                connecting.exception()

    def _find(self) -> None:
        for uuid in {self._gatt.write, *self._gatt.notify}:
            found = self._client.services.get_characteristic(uuid)
            if found is None:
                raise GlassesError(
                    GlassesFault.INCOMPATIBLE, f"characteristic {uuid} is missing", retryable=False
                )
            self._chars[uuid] = found

    async def _payload(self) -> int:
        char = self._chars[self._gatt.write]
        if self._native and sys.platform == "linux":
            # BlueZ 5.66 shows the MTU of the first link for ever, and refuses what does not fit the present one:
            # ask for it. bleak has no public call (its documentation names this one).
            with contextlib.suppress(_ANY):
                async with asyncio.timeout(NOTIFY_MAX):
                    await self._client._backend._acquire_mtu()  # type: ignore[attr-defined]
                    return max(20, min(self._client.mtu_size - 3, VALUE_MAX))
        deadline = asyncio.get_running_loop().time() + MTU_WAIT
        while (size := char.max_write_without_response_size) <= 20:
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(MTU_POLL)
        return max(20, min(size, VALUE_MAX))

    def _notifier(self, uuid: str) -> Callable[[BleakGATTCharacteristic, bytearray], None]:
        def notify(_: BleakGATTCharacteristic, data: bytearray) -> None:
            if not self._gone.done():
                self._on_notify(uuid, bytes(data))

        return notify

    def _disconnected(self, _: BleakClient) -> None:
        if self._up:
            self._end(GlassesFault.LINK_LOST)
        else:
            self.aborts += 1

    def lost_below(self, path: str) -> None:
        """The stack below us went away, up to this object path."""
        if f"{self._path}/".startswith(f"{path.rstrip('/')}/"):
            self._end(GlassesFault.LINK_LOST)

    async def unpair(self) -> None:
        """Forget this device's bond; never raises, never hangs."""
        with contextlib.suppress(_ANY):
            async with asyncio.timeout(DISCONNECT_MAX):
                await self._client.unpair()

    def _end(self, fault: GlassesFault) -> None:
        if self._gone.done():
            return
        self._gone.set_result(None)
        if self._open:
            # At once, not when the owner gets to it: while the bus connection of a dead link lives, bluetoothd switches
            # its notifications on again with the next link, and that one hears everything twice (measured).
            self._release()
            self._on_closed(fault)

    def _release(self) -> asyncio.Task[None]:
        if self._released is None:
            self._released = asyncio.create_task(self._disconnect(), name="edge-release")
        return self._released

    async def _disconnect(self) -> None:
        with contextlib.suppress(_ANY):
            async with asyncio.timeout(DISCONNECT_MAX):
                await self._client.disconnect()

    async def write(self, data: bytes, *, response: bool, char: str = "") -> None:
        if self._gone.done():
            raise GlassesError(GlassesFault.LINK_LOST, "the link is gone", retryable=True)
        target = self._chars.get(char or self._gatt.write) or self._client.services.get_characteristic(char)
        if target is None:
            raise GlassesError(
                GlassesFault.INCOMPATIBLE, f"characteristic {char} is missing", retryable=False
            )
        writing = asyncio.ensure_future(self._write(target, data, response))
        try:
            # A stack that loses the link does not always say so to the write under way: race the two.
            await asyncio.wait({writing, self._gone}, timeout=WRITE_MAX, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                await writing
                return
            if self._gone.done():
                raise GlassesError(GlassesFault.LINK_LOST, "the link was lost during a write", retryable=True)
            raise GlassesError(
                GlassesFault.TIMEOUT, f"a write took longer than {WRITE_MAX:.0f} s", retryable=True
            )
        except (OSError, EOFError) as error:
            # The bus connection of this client broke; bleak says "connected" for ever after.
            if not isinstance(error, TimeoutError):
                self._end(GlassesFault.LINK_LOST)
            raise fault_of(error) from error
        except _ANY as error:
            raise fault_of(error) from error
        finally:
            if not writing.done():
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, target: BleakGATTCharacteristic, data: bytes, response: bool) -> None:
        async with self._writes:
            await self._client.write_gatt_char(target, data, response=response)

    async def close(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)  # the owner knows: no report
        self._on_released()
        await asyncio.wait({self._release()})
