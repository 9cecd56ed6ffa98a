"""The simulated camera: real JPEGs of the asked size, with the header length that the glasses rely on."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from firmware_sim.camera import SimCamera
from firmware_sim.firmware.frame import JPEG_HEADER
from firmware_sim.firmware.mentra_live import AUDIO, CLASSIC, PICTURE_SIZES
from firmware_sim.firmware.picture import GreenCard, PictureSource
from tests.support.live_host import LiveHost, packets


@pytest.mark.parametrize("size", [*PICTURE_SIZES.values(), (100, 100), (720, 720)])
@pytest.mark.parametrize("quality", [1, 40, 95])
def test_a_picture_is_a_jpeg_of_its_size(size: tuple[int, int], quality: int) -> None:
    picture = Image.open(io.BytesIO(SimCamera().jpeg(*size, quality)))
    picture.load()
    assert (picture.format, picture.size) == ("JPEG", size)


@pytest.mark.parametrize("source", [SimCamera(), GreenCard()], ids=["camera", "card"])
def test_the_header_is_as_long_as_that_of_the_glasses(source: PictureSource) -> None:
    jpeg = source.jpeg(256, 256, 50)
    scan = jpeg.index(b"\xff\xda")
    assert scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big") == JPEG_HEADER
    assert jpeg.endswith(b"\xff\xd9")


def test_photos_differ_and_are_the_same_in_every_run() -> None:
    one, two = SimCamera(), SimCamera()
    series = [one.jpeg(64, 48, 50) for _ in range(3)]
    assert len(set(series)) == 3
    assert series == [two.jpeg(64, 48, 50) for _ in range(3)]


def test_an_absurd_size_is_brought_to_reason() -> None:
    assert Image.open(io.BytesIO(SimCamera().jpeg(-5, 10**9, 500))).size == (16, 2048)


def test_a_photo_over_bluetooth_can_be_looked_at() -> None:
    host = LiveHost(CLASSIC, pictures=SimCamera())
    host.android(
        {"type": "take_photo", "requestId": "r", "transferMethod": "ble", "bleImgId": "I1", "size": "small"}
    )
    host.wait(10.0)
    found = packets(host.effects)
    picture = Image.open(io.BytesIO(b"".join(p.data for p in found)))
    picture.load()
    assert picture.size == PICTURE_SIZES["small"]
    assert AUDIO not in {uuid for uuid, _ in host.sent}
