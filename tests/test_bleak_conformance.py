"""Canaries for bleak's backend API, which bleak calls unstable, and proof that our backend fills all of it."""

from __future__ import annotations

import importlib.metadata
import inspect

import pytest
from bleak import BleakClient, BleakScanner
from bleak.assigned_numbers import gatt_char_props_to_strs
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakBluetoothNotAvailableReason, BleakDeviceNotFoundError, BleakGATTProtocolError

from firmware_sim.bleak_backend import radio


def test_the_version_is_one_the_backend_was_written_for() -> None:
    assert importlib.metadata.version("bleak").startswith("3.1.")


def test_our_classes_leave_no_abstract_method_open() -> None:
    backend = radio("unix:/nowhere")
    assert not inspect.isabstract(backend.client)
    assert not inspect.isabstract(backend.scanner)
    assert issubclass(backend.client, BaseBleakClient)
    assert issubclass(backend.scanner, BaseBleakScanner)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (
            BaseBleakClient.__init__,
            ["self", "address_or_ble_device", "disconnected_callback", "timeout", "kwargs"],
        ),
        (BaseBleakClient.connect, ["self", "pair", "kwargs"]),
        (BaseBleakClient.write_gatt_char, ["self", "characteristic", "data", "response"]),
        (BaseBleakClient.start_notify, ["self", "characteristic", "callback", "kwargs"]),
        (BaseBleakScanner.__init__, ["self", "detection_callback", "service_uuids"]),
        (BaseBleakScanner.create_or_update_device, ["self", "key", "address", "name", "details", "adv"]),
        (
            BleakGATTCharacteristic.__init__,
            ["self", "obj", "handle", "uuid", "properties", "max_write_without_response_size", "service"],
        ),
    ],
)
def test_signatures_are_the_known_ones(function: object, parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters  # type: ignore[arg-type]


def test_advertisement_data_has_the_fields_we_fill() -> None:
    assert AdvertisementData._fields == (
        "local_name",
        "manufacturer_data",
        "service_data",
        "service_uuids",
        "tx_power",
        "rssi",
        "platform_data",
    )


async def test_public_classes_take_a_backend_and_hand_their_arguments_through() -> None:
    backend = radio("unix:/nowhere")
    scanner = BleakScanner(service_uuids=["180f"], backend=backend.scanner)
    assert scanner._backend._service_uuids == ["0000180f-0000-1000-8000-00805f9b34fb"]
    client = BleakClient(
        "c0:00:00:00:00:01", timeout=7, pair=False, backend=backend.client, bluez={}, winrt={}
    )
    assert client.address == "C0:00:00:00:00:01"
    assert client._backend._timeout == 7
    assert not client.is_connected
    assert client.mtu_size == 23
    await client.disconnect()


def test_errors_and_names_we_raise_exist() -> None:
    assert BleakGATTProtocolError(0x80).code == 0x80
    assert BleakDeviceNotFoundError("x", "y").identifier == "x"
    assert BleakBluetoothNotAvailableReason.NO_BLUETOOTH
    assert gatt_char_props_to_strs(0x0C) == {"write", "write-without-response"}
