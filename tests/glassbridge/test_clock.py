"""The built-in app: what it shows for what happens."""

from __future__ import annotations

import math
import struct
from datetime import datetime

import pytest

from glassbridge.clock import METER_LINGER, Clock, loudness, meter
from tests.support.app_cloud import app_cloud
from tests.support.waiting import until

NOON = datetime(2026, 5, 1, 12, 0)


def tone(amplitude: float, samples: int = 1600) -> bytes:
    wave = (int(32767 * amplitude * math.sin(i / 3)) for i in range(samples))
    return struct.pack(f"<{samples}h", *wave)


@pytest.mark.parametrize(("amplitude", "db"), [(1.0, -3.0), (0.1, -23.0), (0.01, -43.1)])
def test_loudness_is_decibels_below_full_scale(amplitude: float, db: float) -> None:
    assert loudness(tone(amplitude)) == pytest.approx(db, abs=0.3)


@pytest.mark.parametrize("pcm", [b"", b"\x01", b"\x00" * 320])
def test_silence_and_nothing_are_minus_a_hundred(pcm: bytes) -> None:
    assert loudness(pcm) == -100.0


def test_the_meter_stays_within_its_width() -> None:
    assert meter(-200) == ""
    assert meter(0) == "|" * 20
    assert len(meter(-35)) == 10


async def test_the_face_follows_touches_battery_sound_and_speech() -> None:
    clock = Clock(api_key="key")
    async with app_cloud(clock.app) as cloud:
        connection, _ = await cloud.start()
        first = await connection.next("display_event")
        assert "Hello" in first["layout"]["text"]
        await connection.event("touch_event", {"device_model": "G1", "gesture_name": "double_tap"})
        assert "double tap   touches: 1" in (await connection.next("display_event"))["layout"]["text"]
        await connection.event("glasses_battery_update", {"level": 12})
        assert "battery 12 %" in (await connection.next("display_event"))["layout"]["text"]
        await connection.event("transcription:en-US", {"text": "where is the station", "isFinal": False})
        assert "where is the station" in (await connection.next("display_event"))["layout"]["text"]
        face = clock.faces["anna@example.com"]
        await connection.socket.send(tone(0.5))
        await until(lambda: face.levels, "the clock hears the tone")
        assert face.levels[-1] == pytest.approx(-9.0, abs=0.3)
        assert "mic ||||||||" in face.text(NOON, face.heard_at)
        assert "mic" not in face.text(NOON, face.heard_at + METER_LINGER)
        await cloud.stop()
        assert clock.faces == {}
