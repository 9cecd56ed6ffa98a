"""Canaries for the Bumble internals that the virtual radio and the bleak backend rely on.

When one fails after an upgrade: read `firmware_sim/radio.py` and `firmware_sim/bleak_backend.py` against the new
version, run `tests/firmware_sim/`, then pin the new version.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import inspect

import pytest
from bumble import att, gatt_server, hci, host, ll
from bumble.controller import Connection, Controller, LegacyAdvertiser
from bumble.device import Advertisement, Device
from bumble.gatt_client import Client
from bumble.keys import MemoryKeyStore
from bumble.link import LocalLink
from bumble.transport.common import PacketParser

from firmware_sim.radio import _OVERRIDDEN, SimController, SimLink


def test_the_version_is_the_one_the_overrides_were_written_for() -> None:
    assert importlib.metadata.version("bumble") == "0.0.236"


@pytest.mark.parametrize(
    ("cls", "name"), [(cls, name) for cls, names in _OVERRIDDEN.items() for name in names]
)
def test_every_overridden_method_exists(cls: type, name: str) -> None:
    assert callable(getattr(cls, name))


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (Controller.__init__, ["self", "name", "host_source", "host_sink", "link", "public_address"]),
        (Controller.on_le_disconnected, ["self", "connection", "reason"]),
        (Controller.on_ll_control_pdu, ["self", "sender_address", "packet"]),
        (LocalLink.send_ll_control_pdu, ["self", "sender_address", "receiver_address", "packet"]),
        (LegacyAdvertiser._on_timer_fired, ["self"]),
        (Device.connect, ["self", "peer_address", "transport", "connection_parameters_preferences", "own_address_type", "timeout", "always_resolve"]),
        (Device.notify_subscriber, ["self", "connection", "attribute", "value", "force"]),
        (Client.write_value, ["self", "attribute", "value", "with_response"]),
    ],
)  # fmt: skip
def test_signatures_are_the_known_ones(function: object, parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters  # type: ignore[arg-type]


def test_a_controllers_connection_is_a_dataclass_with_the_fields_we_fill() -> None:
    fields = {field.name for field in dataclasses.fields(Connection)}
    assert {
        "controller",
        "handle",
        "role",
        "self_address",
        "peer_address",
        "link",
        "transport",
        "link_type",
    } <= fields


def test_the_controllers_command_dispatch_is_by_method_name() -> None:
    """`on_hci_packet` finds `on_<command name>` by `getattr`: otherwise our overrides are never called."""
    source = inspect.getsource(Controller.on_hci_command_packet)
    assert "on_{command.name.lower()}" in source
    assert (
        hci.HCI_LE_Create_Connection_Cancel_Command().name.lower()
        == "hci_le_create_connection_cancel_command"
    )


async def test_our_controller_makes_hosts_use_legacy_advertising_and_connecting() -> None:
    controller = SimController(
        "c", SimLink(), hci.Address("02:00:00:00:00:01", hci.Address.PUBLIC_DEVICE_ADDRESS)
    )
    assert not controller.le_features & hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
    assert hci.HCI_LE_EXTENDED_CREATE_CONNECTION_COMMAND not in controller.supported_commands
    assert controller.le_legacy_advertiser.controller is controller


async def test_the_packet_queue_holds_back_and_tells_what_is_pending() -> None:
    sent: list[object] = []
    queue = host.DataPacketQueue(max_packet_size=251, max_in_flight=2, send=sent.append)
    for _ in range(5):
        queue.enqueue(hci.HCI_AclDataPacket(1, 0, 0, 1, b"x"), 1)
    assert (len(sent), queue.pending) == (2, 5)
    draining = asyncio.ensure_future(queue.drain(1))
    await asyncio.sleep(0)
    assert not draining.done()
    for _ in range(5):
        queue.on_packets_completed(1, 1)
    await draining
    assert queue.pending == 0
    queue.enqueue(hci.HCI_AclDataPacket(1, 0, 0, 1, b"x"), 1)
    queue.flush(1)
    assert queue.pending == 0


def test_the_gatt_server_negotiates_up_to_max_mtu() -> None:
    assert "self.max_mtu" in inspect.getsource(gatt_server.Server.on_att_exchange_mtu_request)


def test_a_writes_attribute_is_called_in_the_first_step_of_its_task() -> None:
    """Write commands run in one task each; their order holds because our callback does not wait."""
    source = inspect.getsource(gatt_server.Server.on_att_write_command)
    assert "await attribute.write_value" in source
    assert source.count("await") == 1


def test_att_errors_carry_their_code() -> None:
    error = att.ATT_Error(att.ATT_WRITE_NOT_PERMITTED_ERROR, 7)
    assert (error.error_code, error.att_handle) == (0x03, 7)


def test_an_advertisement_has_what_the_scanner_reads() -> None:
    report = hci.HCI_LE_Advertising_Report_Event.Report(
        event_type=hci.HCI_LE_Advertising_Report_Event.EventType.ADV_IND,
        address_type=hci.Address.RANDOM_DEVICE_ADDRESS,
        address=hci.Address("C0:00:00:00:00:01"),
        data=b"\x02\x01\x06",
        rssi=-60,
    )
    advertisement = Advertisement.from_advertising_report(report)
    assert advertisement is not None
    assert (str(advertisement.address).split("/")[0], advertisement.rssi) == ("C0:00:00:00:00:01", -60)
    assert advertisement.data is not None


def test_addresses_compare_by_bytes_and_type() -> None:
    public, random = hci.Address.PUBLIC_DEVICE_ADDRESS, hci.Address.RANDOM_DEVICE_ADDRESS
    assert hci.Address("C0:00:00:00:00:01", random) == hci.Address("C0:00:00:00:00:01", random)
    assert hci.Address("C0:00:00:00:00:01", random) != hci.Address("C0:00:00:00:00:01", public)
    assert hci.Address("C0:00:00:00:00:01").address_type == random


def test_the_stream_parser_refuses_what_is_no_hci() -> None:
    packets: list[bytes] = []

    class Sink:
        def on_packet(self, packet: bytes) -> None:
            packets.append(packet)

    parser = PacketParser(Sink())
    for byte in bytes(hci.HCI_Reset_Command()):
        parser.feed_data(bytes([byte]))
    assert packets == [bytes(hci.HCI_Reset_Command())]
    with pytest.raises(Exception, match="invalid packet type"):
        parser.feed_data(b"\x77")


def test_a_termination_carries_its_reason_and_keys_can_be_forgotten() -> None:
    assert ll.TerminateInd(0x13).error_code == 0x13
    assert inspect.iscoroutinefunction(MemoryKeyStore.delete_all)
