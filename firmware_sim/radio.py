"""The virtual radio: Bumble controllers joined by air that takes time, loses packets and drops links.

Rules of this file:

- The only file that overrides Bumble internals (`controller.Controller`, `link.LocalLink`); it refuses to be
  imported when one of the overridden names is gone, and `tests/test_bumble_conformance.py` watches the rest.
- A live BLE link neither loses nor reorders: loss is delay, and too much of it is a supervision timeout.
- Everything random comes from the seed; all time is the event loop's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bumble import hci, ll
from bumble.controller import Connection, Controller, LegacyAdvertiser
from bumble.core import PhysicalTransport
from bumble.link import LocalLink

logger = logging.getLogger(__name__)

_OVERRIDDEN: dict[type, tuple[str, ...]] = {
    Controller: (
        "find_le_connection_by_handle",
        "allocate_connection_handle",
        "on_hci_acl_data_packet",
        "on_hci_le_connection_update_command",
        "on_hci_le_create_connection_cancel_command",
        "on_hci_le_create_connection_command",
        "on_hci_le_set_scan_enable_command",
        "on_hci_reset_command",
        "on_le_disconnected",
        "on_ll_control_pdu",
        "send_hci_packet",
    ),
    LegacyAdvertiser: ("_on_timer_fired", "send_advertising_data", "start", "stop"),
    LocalLink: ("send_acl_data", "send_advertising_pdu", "send_ll_control_pdu"),
}
for _class, _names in _OVERRIDDEN.items():
    if _missing := [name for name in _names if not hasattr(_class, name)]:
        raise ImportError(
            f"bumble's {_class.__name__} has no {', '.join(_missing)}: the virtual radio was written for "
            "bumble 0.0.236; install that version"
        )

LL_PDU_MAX = 251
"""Bytes of one link-layer data PDU with data length extension."""

BUFFERS = 12
"""ACL buffers of a controller, as small dongles have: gives hosts real back-pressure."""

RETRY = 0.0075
"""Seconds until a lost PDU is repeated when no interval is set: the shortest connection interval."""

ESTABLISH_EVENTS = 6
"""Connection events after which a link that never came alive is given up (Core, Vol 6 Part B, 4.5.2)."""

QUEUE_MAX = 4096
"""PDUs waiting on one direction of a link. Controller buffers bound it to about 2 * BUFFERS; this is a tripwire."""


@dataclass(eq=False)
class SimEnd(Connection):
    """A controller's record of a link, which also knows the link."""

    sim: SimConnection | None = None


@dataclass
class RadioParams:
    """How the air behaves for every link. Seconds; `interval` None delivers at once."""

    interval: float | None = None
    pdus_per_event: int = 6
    loss: float = 0.0


@dataclass
class Air:
    """What is special about the air around one peripheral."""

    rssi: int = -52
    adv_loss: float = 0.0
    latency: float = 0.0
    blackhole: bool = False
    """No PDU passes, advertisements included."""
    refuse: int | None = None
    """Connection attempts fail with this HCI status, 0x3E as a rule."""
    cut_after: int | None = None
    """So many PDUs still pass on the link, then it is cut; once."""


class Pipe:
    """One direction of a link: first in, first out, at the pace of the air."""

    def __init__(
        self, link: SimLink, air: Air, supervision: Callable[[], float], dead: Callable[[], None]
    ) -> None:
        self._link, self._air, self._supervision, self._dead = link, air, supervision, dead
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.Handle | None = None
        self._losing_since: float | None = None

    def put(self, deliver: Callable[[], None]) -> None:
        if len(self._queue) >= QUEUE_MAX:
            raise OverflowError("a host ignores flow control: more PDUs queued than buffers exist")
        self._queue.append((asyncio.get_running_loop().time() + self._air.latency, deliver))
        self.wake()

    def wake(self) -> None:
        if self._timer is None and self._queue and not self._air.blackhole:
            self._timer = self._schedule()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.clear()

    def _schedule(self) -> asyncio.Handle:
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = self._queue[0][0]
        interval = self._link.params.interval
        if interval is not None:
            # Anchor points lie on a grid, like connection events.
            due = (max(due, now) // interval + 1) * interval
        elif self._losing_since is not None:
            due = max(due, now + RETRY)
        return loop.call_soon(self._event) if due <= now else loop.call_at(due, self._event)

    def _event(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        budget = (
            self._link.params.pdus_per_event if self._link.params.interval is not None else len(self._queue)
        )
        while budget and self._queue and self._queue[0][0] <= now and not self._air.blackhole:
            if self._link.params.loss and self._link.random.random() < self._link.params.loss:
                self._losing_since = self._losing_since or now
                if now - self._losing_since > self._supervision():
                    self._dead()
                    return
                break
            self._losing_since = None
            budget -= 1
            if self._air.cut_after is not None:
                self._air.cut_after -= 1
                if self._air.cut_after < 0:
                    self._air.cut_after = None
                    self._dead()
                    return
            self._queue.popleft()[1]()
        self.wake()


class SimConnection:
    """One link between a central and a peripheral controller."""

    def __init__(
        self,
        link: SimLink,
        central: SimController,
        peripheral: SimController,
        addresses: tuple[hci.Address, hci.Address],
    ) -> None:
        self.link, self.central, self.peripheral = link, central, peripheral
        self.central_address, self.peripheral_address = addresses
        self.supervision = 0.72
        air = link.air(self.peripheral_address)
        self._pipes = {
            side: Pipe(link, air, lambda: self.supervision, self._supervision_expired)
            for side in (central, peripheral)
        }
        self._silence: asyncio.TimerHandle | None = None

    def pipe_from(self, controller: SimController) -> Pipe:
        return self._pipes[controller]

    def peer_of(self, controller: SimController) -> SimController:
        return self.peripheral if controller is self.central else self.central

    def address_of(self, controller: SimController) -> hci.Address:
        return self.central_address if controller is self.central else self.peripheral_address

    def end_of(self, controller: SimController) -> SimEnd | None:
        """The controller's own record of this link, if it still has it."""
        end = controller.le_connections.get(self.address_of(self.peer_of(controller)))
        return end if isinstance(end, SimEnd) and end.sim is self else None

    def blackhole(self, on: bool) -> None:
        """Start or end a silence; longer than the supervision time-out it ends the link at both sides."""
        if on and self._silence is None:
            self._silence = asyncio.get_running_loop().call_later(self.supervision, self._supervision_expired)
        elif not on:
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None
            for pipe in self._pipes.values():
                pipe.wake()

    def vanish(self, controller: SimController) -> None:
        """One side lost its power: the other notices after the supervision time-out."""
        for pipe in self._pipes.values():
            pipe.close()
        if self._silence is None:
            self._silence = asyncio.get_running_loop().call_later(self.supervision, self._supervision_expired)

    def drop(self, reason: int) -> None:
        """End the link at both sides now."""
        self.close()
        for controller in (self.peripheral, self.central):
            if (connection := self.end_of(controller)) is not None:
                controller.on_le_disconnected(connection, reason)

    def _supervision_expired(self) -> None:
        self._silence = None
        self.drop(hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def left(self, controller: SimController) -> None:
        """One side is done. Its last words (the termination) still travel; after the other side it is over."""
        if self.end_of(self.peer_of(controller)) is None:
            self.close()

    def close(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        for pipe in self._pipes.values():
            pipe.close()
        self.link.connections.discard(self)


class SimLink(LocalLink):
    """The air between all controllers of a room."""

    def __init__(self, seed: int = 0, params: RadioParams | None = None) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.params = params or RadioParams()
        self.connections: set[SimConnection] = set()
        self.listeners: set[SimController] = set()
        """Controllers that scan or initiate; only they hear advertisements."""
        self._airs: dict[str, Air] = {}

    def air(self, address: hci.Address | str) -> Air:
        return self._airs.setdefault(str(address).split("/")[0].upper(), Air())

    def connection_of(self, address: hci.Address | str) -> SimConnection | None:
        """The live link of the peripheral with this address."""
        wanted = str(address).split("/")[0].upper()
        for connection in self.connections:
            if str(connection.peripheral_address).split("/")[0].upper() == wanted:
                return connection
        return None

    # -- faults --------------------------------------------------------------------------------------------------

    def drop(self, address: str, reason: int = hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR) -> bool:
        """Cut the link of a peripheral at once; False when there is none."""
        connection = self.connection_of(address)
        if connection is None:
            return False
        connection.drop(reason)
        return True

    def blackhole(self, address: str, on: bool) -> None:
        self.air(address).blackhole = on
        if (connection := self.connection_of(address)) is not None:
            connection.blackhole(on)

    # -- traffic -------------------------------------------------------------------------------------------------

    def send_acl_data(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError("SimController hands fragments to send_fragment")

    def send_advertising_pdu(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError("SimAdvertiser hands advertisements to advertise")

    def send_ll_control_pdu(
        self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu
    ) -> None:
        """Control PDUs share the pipe with data, so that a termination does not overtake what was said before."""
        for connection in self.connections:
            for sender in (connection.central, connection.peripheral):
                receiver = connection.peer_of(sender)
                if (
                    connection.address_of(sender) == sender_address
                    and connection.address_of(receiver) == receiver_address
                ):
                    self._put_control(connection, sender, receiver, sender_address, packet)
                    return
        logger.debug("LL control PDU for a link that is gone: %s", packet)

    def _put_control(
        self,
        connection: SimConnection,
        sender: SimController,
        receiver: SimController,
        sender_address: hci.Address,
        packet: ll.ControlPdu,
    ) -> None:
        def deliver() -> None:
            if connection.end_of(receiver) is not None:
                receiver.on_ll_control_pdu(sender_address, packet)

        connection.pipe_from(sender).put(deliver)

    def send_fragment(self, sender: SimController, end: SimEnd, packet: hci.HCI_AclDataPacket) -> None:
        """One HCI ACL fragment is one PDU; it counts as completed when the other side has it."""
        connection = end.sim
        if connection is None:
            return  # a link that never came alive: it ends by itself
        receiver = connection.peer_of(sender)
        first = packet.pb_flag != hci.HCI_ACL_PB_CONTINUATION
        data = packet.data

        def deliver() -> None:
            peer_end = connection.end_of(receiver)
            if peer_end is not None:  # nobody acknowledges for a side that is gone
                sender.completed(end)
                # Controller to host: 2 = first automatically flushable, 1 = continuing.
                pb_flag = hci.HCI_ACL_PB_FIRST_FLUSHABLE if first else hci.HCI_ACL_PB_CONTINUATION
                receiver.send_hci_packet(hci.HCI_AclDataPacket(peer_end.handle, pb_flag, 0, len(data), data))

        connection.pipe_from(sender).put(deliver)

    def advertise(self, advertiser: SimAdvertiser) -> None:
        air = self.air(advertiser.address)
        if air.blackhole:
            return
        rssi = air.rssi + self.random.randint(-3, 3)
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            if listener is not advertiser.controller and not (
                air.adv_loss and self.random.random() < air.adv_loss
            ):
                loop.call_soon(listener.on_advertisement, advertiser, rssi)

    def establish(
        self, central: SimController, advertiser: SimAdvertiser, command: hci.HCI_LE_Create_Connection_Command
    ) -> None:
        """A central answers an advertisement with a connection request."""
        peripheral = advertiser.controller
        central_address = (
            central.public_address
            if command.own_address_type
            in (hci.OwnAddressType.PUBLIC, hci.OwnAddressType.RESOLVABLE_OR_PUBLIC)
            else central.random_address
        )
        peripheral_address = advertiser.address
        interval, latency, timeout = (
            command.connection_interval_max,
            command.max_latency,
            command.supervision_timeout,
        )
        refusal = self.air(peripheral_address).refuse
        ends: list[tuple[SimController, SimEnd]] = []
        for controller, role, own, peer in (
            (peripheral, hci.Role.PERIPHERAL, peripheral_address, central_address),
            (central, hci.Role.CENTRAL, central_address, peripheral_address),
        ):
            if refusal is not None and controller is peripheral:
                continue
            end = SimEnd(
                controller=controller,
                handle=controller.allocate_connection_handle(),
                role=role,
                self_address=own,
                peer_address=peer,
                link=self,
                transport=PhysicalTransport.LE,
                link_type=hci.HCI_Connection_Complete_Event.LinkType.ACL,
            )
            controller.le_connections[peer] = end
            ends.append((controller, end))
        if refusal is None:
            connection = SimConnection(self, central, peripheral, (central_address, peripheral_address))
            connection.supervision = timeout * 0.01
            self.connections.add(connection)
            for _, end in ends:
                end.sim = connection
            advertiser.stop()
        for controller, end in ends:
            controller.send_hci_packet(
                hci.HCI_LE_Connection_Complete_Event(
                    status=hci.HCI_ErrorCode.SUCCESS,
                    connection_handle=end.handle,
                    role=end.role,
                    peer_address_type=end.peer_address.address_type,
                    peer_address=end.peer_address,
                    connection_interval=interval,
                    peripheral_latency=latency,
                    supervision_timeout=timeout,
                    central_clock_accuracy=0,
                )
            )
        if refusal is not None:
            _, end = ends[0]
            asyncio.get_running_loop().call_later(
                ESTABLISH_EVENTS * interval * 0.00125, central.on_le_disconnected, end, refusal
            )


class SimAdvertiser(LegacyAdvertiser):
    """Advertises at the interval of the command (units of 0.625 ms) plus the random delay the standard asks for."""

    controller: SimController

    def _on_timer_fired(self) -> None:
        self.controller.sim_link.advertise(self)
        delay = self.advertising_interval_min * 0.000625 + self.controller.sim_link.random.uniform(0, 0.010)
        self.timer_handle = asyncio.get_running_loop().call_later(delay, self._on_timer_fired)

    def send_advertising_data(self) -> None:
        raise NotImplementedError("SimLink.advertise sends")


class SimController(Controller):
    """A controller on the virtual radio. `host` is set by whoever owns the HCI side."""

    # Legacy advertising only: Bumble's extended advertising hides scan responses, and glasses use legacy anyway.
    le_features = Controller.le_features & ~(
        hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
        | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING
        | hci.LeFeatureMask.LL_PRIVACY
        | hci.LeFeatureMask.LE_CODED_PHY
    )
    le_acl_data_packet_length = LL_PDU_MAX
    total_num_le_acl_data_packets = BUFFERS
    supported_max_tx_octets = LL_PDU_MAX
    supported_max_rx_octets = LL_PDU_MAX
    suggested_max_tx_octets = LL_PDU_MAX

    def __init__(
        self, name: str, sim_link: SimLink, public_address: hci.Address, max_links: int = 20
    ) -> None:
        """`max_links`: links at a time; real adapters hold 5 to 20."""
        super().__init__(name, link=sim_link, public_address=public_address)
        self.sim_link = sim_link
        self.max_links = max_links
        self.le_legacy_advertiser = SimAdvertiser(self)

    # -- HCI commands --------------------------------------------------------------------------------------------

    def on_hci_reset_command(self, command: hci.HCI_Reset_Command) -> hci.HCI_StatusReturnParameters:
        self.power_cycle()
        return super().on_hci_reset_command(command)

    def power_cycle(self) -> None:
        """Forget everything, as a reset or a pulled plug does; peers notice after their supervision time-out."""
        self.le_legacy_advertiser.stop()
        self.le_scan_enable = False
        self.pending_le_connection = None
        self.sim_link.listeners.discard(self)
        ends = list(self.le_connections.values())
        self.le_connections.clear()
        for end in ends:
            if isinstance(end, SimEnd) and end.sim is not None:
                end.sim.vanish(self)

    def on_hci_le_set_scan_enable_command(
        self, command: hci.HCI_LE_Set_Scan_Enable_Command
    ) -> hci.HCI_StatusReturnParameters:
        result = super().on_hci_le_set_scan_enable_command(command)
        self._listen()
        return result

    def on_hci_le_create_connection_command(self, command: hci.HCI_LE_Create_Connection_Command) -> None:
        if self.pending_le_connection is None and len(self.le_connections) >= self.max_links:
            self._send_hci_command_status(hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR, command.op_code)
            return
        super().on_hci_le_create_connection_command(command)
        self._listen()

    def on_hci_le_create_connection_cancel_command(
        self, command: hci.HCI_LE_Create_Connection_Cancel_Command
    ) -> hci.HCI_StatusReturnParameters:
        pending = self.pending_le_connection
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        self.pending_le_connection = None
        self._listen()
        # After the command's own completion, as the standard orders it.
        asyncio.get_running_loop().call_soon(
            self.send_hci_packet,
            hci.HCI_LE_Connection_Complete_Event(
                status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
                connection_handle=0,
                role=hci.Role.CENTRAL,
                peer_address_type=pending.peer_address_type,
                peer_address=pending.peer_address,
                connection_interval=0,
                peripheral_latency=0,
                supervision_timeout=0,
                central_clock_accuracy=0,
            ),
        )
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def on_hci_le_connection_update_command(self, command: hci.HCI_LE_Connection_Update_Command) -> None:
        end = self.find_le_connection_by_handle(command.connection_handle)
        if isinstance(end, SimEnd) and end.sim is not None:
            end.sim.supervision = command.supervision_timeout * 0.01
        super().on_hci_le_connection_update_command(command)

    def on_hci_acl_data_packet(self, packet: hci.HCI_AclDataPacket) -> None:
        end = self.find_le_connection_by_handle(packet.connection_handle)
        if isinstance(end, SimEnd):
            self.sim_link.send_fragment(self, end, packet)
        else:
            logger.debug("%s: data for handle 0x%03x, which is gone", self.name, packet.connection_handle)

    # -- the air -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self.le_scan_enable or self.pending_le_connection is not None:
            self.sim_link.listeners.add(self)
        else:
            self.sim_link.listeners.discard(self)

    def on_advertisement(self, advertiser: SimAdvertiser, rssi: int) -> None:
        if not advertiser.enabled:
            return
        if self.le_scan_enable:
            self._report(advertiser, hci.HCI_LE_Advertising_Report_Event.EventType.ADV_IND, rssi)
            if self.le_scan_type == hci.HCI_LE_Set_Scan_Parameters_Command.ACTIVE_SCANNING:
                self._report(advertiser, hci.HCI_LE_Advertising_Report_Event.EventType.SCAN_RSP, rssi)
        pending = self.pending_le_connection
        if (
            pending is not None
            and pending.peer_address == advertiser.address
            and self.le_connections.get(advertiser.address) is None
        ):
            self.pending_le_connection = None
            self._listen()
            self.sim_link.establish(self, advertiser, pending)

    def _report(self, advertiser: SimAdvertiser, event_type: int, rssi: int) -> None:
        scan_response = event_type == hci.HCI_LE_Advertising_Report_Event.EventType.SCAN_RSP
        address = advertiser.address
        self.send_hci_packet(
            hci.HCI_LE_Advertising_Report_Event(
                [
                    hci.HCI_LE_Advertising_Report_Event.Report(
                        event_type=event_type,
                        address_type=address.address_type,
                        address=address,
                        data=advertiser.scan_response_data if scan_response else advertiser.advertising_data,
                        rssi=rssi,
                    )
                ]
            )
        )

    def completed(self, end: Connection) -> None:
        if self.le_connections.get(end.peer_address) is end:
            self.send_hci_packet(
                hci.HCI_Number_Of_Completed_Packets_Event(
                    connection_handles=[end.handle], num_completed_packets=[1]
                )
            )

    def on_le_disconnected(self, connection: Connection, reason: int) -> None:
        if self.le_connections.get(connection.peer_address) is not connection:
            return  # already told
        super().on_le_disconnected(connection, reason)
        if isinstance(connection, SimEnd) and connection.sim is not None:
            connection.sim.left(self)
