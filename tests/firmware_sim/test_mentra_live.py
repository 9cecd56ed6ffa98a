"""The simulated Mentra Live: boot, acknowledgements, chunks, photos with every kind of loss, microphone, people."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.firmware import k900
from firmware_sim.firmware import mentra_live as ml
from firmware_sim.firmware.base import (
    Action,
    Advertise,
    ArmState,
    AudioFormat,
    Disconnect,
    InvalidTransition,
    Microphone,
    NoTaker,
    UserInput,
)
from firmware_sim.firmware.mentra_live import CLASSIC, NEWEST, OLDEST, TO_GLASSES, Soc
from tests.support.live_host import Card, LiveHost, new_live, packets, said
from tests.support.sim_host import notified

BUILDS = pytest.mark.parametrize("build", [OLDEST, CLASSIC, NEWEST], ids=["oldest", "classic", "newest"])
PICTURE = Card().jpeg(0, 0, 0)


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [m["type"] for m in messages]


# --- boot ---------------------------------------------------------------------------------------------------------


def test_the_chip_answers_before_the_android_side_is_up() -> None:
    host = LiveHost(booted=False)
    assert host.chip("cs_hrt")[0]["B"] == {"pt": 85, "ready": 0, "charg": 0}
    host.wait(ml.BOOT_TIME)
    assert host.chip("cs_hrt")[0]["B"]["ready"] == 1


def test_a_message_before_boot_is_lost_without_an_acknowledgement() -> None:
    host = LiveHost(booted=False)
    assert host.android({"type": "phone_ready", "timestamp": 1, "mId": 5}, W=1) == []
    host.wait(ml.BOOT_TIME)
    assert kinds(host.android({"type": "phone_ready", "timestamp": 1, "mId": 5}, W=1)) == [
        "msg_ack",
        "glasses_ready",
    ]


def test_low_battery_does_not_boot_until_it_charges() -> None:
    host = LiveHost(booted=False, battery=20)
    host.wait(60.0)
    assert host.chip("cs_hrt")[0]["B"] == {"pt": 20, "ready": 0, "charg": 0}
    host.live.user(UserInput(Action.CHARGE), host.now)
    host.wait(ml.BOOT_TIME)
    assert host.live.soc is Soc.READY


def test_a_reboot_keeps_the_link_and_changes_the_session_id() -> None:
    host = LiveHost(NEWEST)
    (first,) = host.android({"type": "phone_ready", "timestamp": 1})
    host.android({"type": "reboot"})
    assert host.chip("cs_hrt")[0]["B"]["ready"] == 0
    assert host.android({"type": "ping"}) == []
    host.wait(ml.BOOT_TIME)
    (second,) = host.android({"type": "phone_ready", "timestamp": 2})
    assert first["sid"] != second["sid"]
    assert host.live.arms["main"].state is ArmState.CONNECTED


def test_shutting_down_is_announced_and_the_button_wakes_the_glasses() -> None:
    host = LiveHost()
    assert {"C": "sr_shut", "B": {}} in host.chip("cs_shut")
    effects = host.wait(1.0)
    assert any(isinstance(e, Disconnect) for e in effects)
    host.drop()
    assert host.live.arms["main"].state is ArmState.DARK
    assert Advertise("main", True) in host.live.user(UserInput(Action.PRESS), host.now)
    host.wait(ml.BOOT_TIME)
    assert host.live.soc is Soc.READY


def test_the_android_side_moves_only_along_its_table() -> None:
    live = new_live()
    with pytest.raises(InvalidTransition):
        live._soc_move(Soc.READY)
    assert live.soc is Soc.OFF


# --- messages -----------------------------------------------------------------------------------------------------


def test_a_repeated_message_is_acknowledged_again_but_done_once() -> None:
    host = LiveHost()
    join = {"type": "start_video_recording", "requestId": "v", "mId": 77}
    assert kinds(host.android(join)) == ["msg_ack", "video_recording_status"]
    assert kinds(host.android(join)) == ["msg_ack"]


def test_the_oldest_firmware_acknowledges_nothing() -> None:
    host = LiveHost(OLDEST)
    assert kinds(host.android({"type": "request_wifi_status", "mId": 1})) == ["wifi_status"]


@pytest.mark.parametrize("verbose", [True, False])
def test_a_long_message_in_chunks_is_done_once_it_is_whole(verbose: bool) -> None:
    host = LiveHost()
    text = json.dumps({"type": "set_photo_mode", "mode": "x" * 60, "padding": "y" * 200})
    parts = k900.pieces(text)
    order = list(reversed(range(len(parts))))
    answers = []
    for i in order:
        piece: dict[str, Any] = {"t": "ck", "id": "5_1", "c": i, "n": len(parts), "d": parts[i]}
        if verbose:
            piece = {
                "type": "chunked_msg",
                "chunkId": "5_1",
                "chunk": i,
                "total": len(parts),
                "data": parts[i],
            }
        if i == len(parts) - 1:
            piece["mId"] = 5
        answers += host.android(piece)
    assert kinds(answers) == ["msg_ack", "set_photo_mode_ack"]


@BUILDS
def test_a_long_answer_reaches_the_host_whole_at_every_mtu(build: ml.Build) -> None:
    for mtu in (23, 64, 185, 247, 512):
        host = LiveHost(build, mtu=mtu)
        answers = host.android({"type": "request_version"}, wait=5.0)
        chunks = k900.Chunks()
        for answer in list(answers):
            if k900.is_chunk(answer):
                answers.remove(answer)
                joined = chunks.add(answer, 0.0)
                answers += [json.loads(joined[0])] if joined else []
        merged = {key: value for answer in answers for key, value in answer.items()}
        assert merged["build_number"] == str(build.build_number)
        assert merged["device_model"] == "MentraLive"
        assert all(len(data) <= mtu - 3 for _, data in host.sent)


def test_a_write_longer_than_the_chip_takes_is_lost_until_v2_is_agreed() -> None:
    long = k900.frame(
        k900.json_bytes({"C": json.dumps({"type": "set_photo_mode", "mode": "m" * 60}), "p": "q" * 200}),
        "little",
    )
    assert len(long) > ml.WRITE_MAX
    host = LiveHost(NEWEST)
    assert host.write(TO_GLASSES, long, 0.2) == []
    host.write(TO_GLASSES, k900.Fragment(0x0B, 1, 0, 1, b"v2").frame(), 0.2)
    assert host.write(TO_GLASSES, long, 0.2) != []


def test_the_second_of_two_hasty_writes_can_be_lost() -> None:
    host = LiveHost()
    host.live.quirks.lose_hasty_writes = True
    host.chip("cs_hrt", wait=0.0)
    host.chip("cs_batv", wait=0.0)
    assert [m["C"] for m in said(host.wait(0.2))] == ["sr_hrt"]


def test_a_button_press_is_repeated_until_the_host_acknowledges_it() -> None:
    host = LiveHost(NEWEST)
    host.take(host.live.user(UserInput(Action.PRESS), host.now))
    host.wait(2.5)
    presses = [m for m in said(host.effects) if m.get("type") == "button_press"]
    assert len(presses) == 2
    assert presses[0] == presses[1]
    host.android({"type": "msg_ack", "mId": presses[0]["mId"]})
    host.wait(60.0)
    assert len([m for m in said(host.effects) if m.get("type") == "button_press"]) == 2


def test_repeats_end_after_three() -> None:
    host = LiveHost(NEWEST)
    host.take(host.live.user(UserInput(Action.PRESS), host.now))
    host.wait(300.0)
    assert len([m for m in said(host.effects) if m.get("type") == "button_press"]) == ml.TRIES_MAX


def test_messages_that_nobody_acknowledges_stay_bounded() -> None:
    host = LiveHost(NEWEST)
    for _ in range(100):
        host.take(host.live.user(UserInput(Action.PRESS), host.now))
    assert len(host.live._unacknowledged) == ml.UNACKNOWLEDGED_MAX


def test_the_clock_follows_the_host() -> None:
    host = LiveHost()
    (ready,) = host.android({"type": "phone_ready", "timestamp": 1_750_000_000_000})
    assert ready["timestamp"] == 1_750_000_000_000
    host.wait(10.0)
    (ack, _) = host.android({"type": "request_wifi_status", "mId": 3})
    assert 10_000 <= ack["timestamp"] - 1_750_000_000_000 < 11_000


def test_wifi_is_joined_only_with_the_right_password() -> None:
    host = LiveHost(networks={"Home": "secret"})
    (wrong,) = host.android({"type": "set_wifi_credentials", "ssid": "Home", "password": "guess"}, wait=3.0)
    assert wrong["connected"] is False
    (right,) = host.android({"type": "set_wifi_credentials", "ssid": "Home", "password": "secret"}, wait=3.0)
    assert (right["connected"], right["ssid"]) == (True, "Home")


def test_a_wifi_scan_names_every_network() -> None:
    old = LiveHost(CLASSIC).android({"type": "request_wifi_scan"}, wait=1.0)
    assert [m["networks"] for m in old] == [["Home"], ["Cafe"]]
    new = LiveHost(NEWEST).android({"type": "request_wifi_scan"}, wait=1.0)
    assert [m["scan_complete"] for m in new] == [False, True]


@pytest.mark.failure("MED-02")
def test_a_stream_ends_by_itself_without_keep_alive() -> None:
    host = LiveHost(networks={"Home": ""})
    host.android({"type": "set_wifi_credentials", "ssid": "Home", "password": ""}, wait=3.0)
    host.android({"type": "start_stream", "streamId": "s"})
    host.wait(50.0)
    (ack,) = host.android({"type": "keep_stream_alive", "streamId": "s", "ackId": "a"})
    assert (ack["type"], ack["ackId"]) == ("keep_alive_ack", "a")
    host.wait(59.0)
    assert host.live.stream is not None
    assert [m["status"] for m in said(host.wait(2.0))] == ["timeout"]
    assert host.live.stream is None


def test_a_stream_without_wifi_says_so() -> None:
    (status,) = LiveHost().android({"type": "start_rtmp_stream", "streamId": "s"})
    assert (status["type"], status["status"]) == ("rtmp_stream_status", "error")


def test_unknown_messages_are_acknowledged_and_counted() -> None:
    host = LiveHost()
    assert kinds(host.android({"type": "no_such_thing", "mId": 1})) == ["msg_ack"]
    assert host.chip("cs_nothing") == []
    assert host.live.arms["main"].counters.unknown_commands == 2


# --- photos -------------------------------------------------------------------------------------------------------


def take(
    host: LiveHost, wait: float = 5.0, **more: Any
) -> tuple[list[dict[str, Any]], list[k900.FilePacket]]:
    before = len(host.effects)
    host.android(
        {"type": "take_photo", "requestId": "r1", "transferMethod": "ble", "bleImgId": "I123456", **more}
    )
    host.wait(wait)
    effects = host.effects[before:]
    return [m for m in said(effects) if m.get("type") != "msg_ack"], packets(effects, host.live.build.files)


def joined(found: list[k900.FilePacket]) -> bytes:
    by_index = {p.index: p.data for p in found}
    return b"".join(by_index[i] for i in sorted(by_index))


@BUILDS
def test_a_photo_arrives_whole(build: ml.Build) -> None:
    host = LiveHost(build)
    messages, found = take(host)
    assert kinds(messages)[:2] == ["photo_status", "ble_photo_ready"]
    assert messages[1]["bleImgId"] == "I123456"
    assert [p.index for p in found] == list(range(len(found)))
    assert {p.name for p in found} == {"I123456.jpg"}
    assert joined(found) == PICTURE
    host.android({"type": "transfer_complete", "fileName": "I123456.jpg", "success": True})
    assert host.live.photo is None
    assert host.wait(120.0) == [] or all(m.get("type") != "transfer_timeout" for m in said(host.effects))


@pytest.mark.parametrize(
    ("image_id", "name"), [("I1", "I1.jpg"), ("I" * 12, "I" * 12 + ".jpg"), ("I" * 16, "I" * 16)]
)
def test_the_file_has_an_extension_where_it_fits(image_id: str, name: str) -> None:
    host = LiveHost()
    assert {p.name for p in take(host, bleImgId=image_id)[1]} == {name}
    host.android({"type": "transfer_complete", "fileName": name, "success": True})
    assert host.live.photo is None


def test_the_file_packets_come_after_their_announcement_and_paced() -> None:
    host = LiveHost(NEWEST)
    take(host)
    announced = [i for i, (_, d) in enumerate(host.sent) if b"ble_photo_ready" in d or b"file_announce" in d]
    first = next(i for i, (u, _) in enumerate(host.sent) if u == ml.FILES)
    assert max(i for i in announced if i < first + 2) < first
    times = [e.t for e in host.live.log if e.direction == "out" and e.data[:3] == b"##1"]
    assert all(0.019 <= b - a <= 0.031 for a, b in pairwise(times))


@pytest.mark.failure("MED-03")
def test_missing_packets_are_sent_again_alone() -> None:
    host = LiveHost()
    host.live.quirks.skip_packets = {3, 12}
    _, found = take(host)
    assert {p.index for p in found} == set(range(13)) - {3, 12}
    before = len(host.effects)
    host.android(
        {"type": "request_missing_packets", "fileName": "I123456", "missingPackets": [12, 3, 3, 99, "x"]}
    )
    host.wait(1.0)
    again = packets(host.effects[before:])
    assert [p.index for p in again] == [3, 12]
    assert joined(found + again) == PICTURE


def test_a_list_of_missing_packets_may_come_in_two_messages() -> None:
    host = LiveHost()
    take(host)
    before = len(host.effects)
    ask = {"type": "request_missing_packets", "fileName": "I123456"}
    host.android({**ask, "missingPackets": [1, 2]}, wait=0.0)
    host.android({**ask, "missingPackets": [2, 7]}, wait=1.0)
    assert [p.index for p in packets(host.effects[before:])] == [1, 2, 7]
    assert host.live.photo is not None
    assert host.live.photo.rounds == 1


@pytest.mark.failure("MED-03")
def test_an_unsuccessful_transfer_starts_again_from_packet_zero() -> None:
    host = LiveHost()
    take(host)
    before = len(host.effects)
    host.android({"type": "transfer_complete", "fileName": "I123456.jpg", "success": False})
    host.wait(2.0)
    assert joined(packets(host.effects[before:])) == PICTURE


@pytest.mark.failure("MED-03")
def test_a_transfer_that_never_succeeds_ends_with_an_error_and_frees_the_camera() -> None:
    host = LiveHost()
    take(host)
    for _ in range(ml.ROUNDS_MAX + 1):
        host.android({"type": "transfer_complete", "fileName": "I123456", "success": False}, wait=2.0)
    last = said(host.effects)[-2:]
    assert kinds(last) == ["transfer_failed", "photo_response"]
    assert last[1]["success"] is False
    assert take(host)[1]


@pytest.mark.failure("MED-03")
def test_a_silent_host_ends_the_transfer_after_thirty_seconds() -> None:
    host = LiveHost()
    take(host, wait=40.0)
    assert kinds(said(host.effects))[-2:] == ["transfer_timeout", "photo_response"]
    assert host.live.photo is None


def test_the_classic_chip_announces_a_size_that_is_a_multiple_of_400() -> None:
    _, found = take(LiveHost(CLASSIC, mtu=256))
    assert len(found[0].data) == 221
    assert {p.file_size for p in found} == {400 * len(found)}
    assert {p.flags for p in found} == {0}


def test_newest_firmware_tells_the_true_size_and_larger_packs() -> None:
    host = LiveHost(NEWEST, mtu=512)
    host.android({"type": "set_ble_mtu", "mtu": 509})
    _, found = take(host)
    assert len(found[0].data) == 470
    assert {p.file_size for p in found} == {len(PICTURE)}
    assert found[0].flags & 0b10


def test_headers_with_a_wrong_pack_size_can_be_provoked() -> None:
    host = LiveHost(CLASSIC, mtu=256)
    host.live.quirks.wrong_pack_size = True
    messages, found = take(host)
    assert messages
    assert found == []
    raw = [data for uuid, data in host.sent if uuid == ml.FILES]
    assert raw[0][3:5] == (400).to_bytes(2, "big")
    assert b"".join(data[29:-3] for data in raw) == PICTURE


@pytest.mark.failure("MED-01")
@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"transferMethod": "direct"}, "NO_NETWORK"),
        ({"bleImgId": ""}, "BAD_IMAGE_ID"),
        ({"bleImgId": "x" * 17}, "BAD_IMAGE_ID"),
    ],
)
def test_a_photo_that_cannot_be_is_refused_at_once_with_its_id(more: dict[str, Any], error: str) -> None:
    host = LiveHost()
    (response,) = host.android(
        {"type": "take_photo", "requestId": "r", "transferMethod": "ble", "bleImgId": "I1", **more}
    )
    assert response == {"type": "photo_response", "requestId": "r", "success": False, "error": error}


@pytest.mark.failure("MED-01")
def test_a_second_photo_meanwhile_is_refused_and_the_same_one_is_taken_once() -> None:
    host = LiveHost()
    ask = {"type": "take_photo", "transferMethod": "ble", "bleImgId": "I1"}
    assert kinds(host.android({**ask, "requestId": "a"})) == ["photo_status"]
    assert host.android({**ask, "requestId": "a"}) == []
    (busy,) = host.android({**ask, "requestId": "b"})
    assert (busy["requestId"], busy["error"]) == ("b", "CAMERA_BUSY")


@pytest.mark.failure("MED-03")
@BUILDS
def test_photos_over_a_link_that_loses_a_tenth_arrive_or_fail_and_leave_nothing_behind(
    build: ml.Build,
) -> None:
    host = LiveHost(build, mtu=256, chance=Random(7).random)
    host.live.arms["main"].faults.lose = 0.1
    whole = 0
    for number in range(50):
        begun = host.now
        photo = host.fetch_photo(f"r{number}")
        assert photo in (PICTURE, None)
        assert host.now - begun < 60.0
        whole += photo is not None
        host.wait(60.0)
        assert host.live.photo is None
        assert len(host.live._timers) <= ml.UNACKNOWLEDGED_MAX
        host.effects.clear()
    assert whole >= 45


@pytest.mark.failure("MED-03")
@pytest.mark.parametrize("packet", range(13))
def test_a_photo_survives_the_loss_of_any_single_packet(packet: int) -> None:
    host = LiveHost()
    host.live.quirks.skip_packets = {packet}
    assert host.fetch_photo("r") == PICTURE


@pytest.mark.parametrize("moment", [0.05, 1.0, 1.6, 1.7, 1.8, 1.9, 3.0])
def test_a_link_lost_at_any_moment_of_a_photo_leaves_a_camera_that_works(moment: float) -> None:
    host = LiveHost(NEWEST)
    take(host, wait=moment)
    host.drop()
    host.wait(1.0)
    host.connect()
    assert host.fetch_photo("next") == PICTURE


def test_a_lost_link_ends_the_photo_and_the_next_one_works() -> None:
    host = LiveHost()
    take(host, wait=1.7)
    host.drop()
    host.wait(5.0)
    host.connect()
    assert host.live.photo is None
    assert joined(take(host)[1]) == PICTURE


def test_the_chip_asks_for_one_packet_again() -> None:
    host = LiveHost()
    take(host)
    before = len(host.effects)
    host.chip("cs_flts", {"state": 0, "index": 4}, wait=1.0)
    assert [p.index for p in packets(host.effects[before:])] == [4]


def test_files_to_the_glasses_are_checked_and_acknowledged() -> None:
    host = LiveHost()
    one = k900.FilePacket(k900.PHOTO, 0, 10, "a.bin", 0, b"12345").pack()
    two = k900.FilePacket(k900.PHOTO, 2, 10, "a.bin", 0, b"12345").pack()
    assert said(host.write(ml.FILES_TO_GLASSES, one, 0.1))[0]["B"] == {"state": 1, "index": 1}
    assert said(host.write(ml.FILES_TO_GLASSES, two, 0.1))[0]["B"] == {"state": 0, "index": 1}
    assert said(host.write(ml.FILES_TO_GLASSES, one[:-1], 0.1))[0]["B"] == {"state": 0, "index": 0}


# --- microphone ---------------------------------------------------------------------------------------------------


def microphone(host: LiveHost, on: bool, wait: float = 0.0) -> list[Any]:
    before = len(host.effects)
    host.chip("enable_custom_audio_tx", json.dumps({"enable": on}), wait=wait)
    return host.effects[before:]


def test_the_microphone_streams_ten_frames_each_tenth_of_a_second() -> None:
    host = LiveHost(mtu=512)
    effects = microphone(host, True, 60.05)
    stream = [d for _, d in notified(effects, ml.AUDIO)]
    assert len(stream) == 600
    assert [d[1] for d in stream] == [i & 0xFF for i in range(600)]
    assert {len(d) for d in stream} == {402}
    assert Microphone(True) in effects
    assert host.live.microphone == AudioFormat("lc3", 16000, 40)
    assert Microphone(False) in microphone(host, False)
    assert notified(host.wait(1.0), ml.AUDIO) == []


@pytest.mark.parametrize(("mtu", "frames"), [(405, 10), (247, 6), (185, 4), (64, 1), (23, 0)])
def test_a_small_mtu_carries_fewer_frames_and_the_same_time(mtu: int, frames: int) -> None:
    host = LiveHost(mtu=mtu)
    stream = notified(microphone(host, True, 10.05), ml.AUDIO)
    assert {len(d) for _, d in stream} == ({2 + 40 * frames} if frames else set())
    assert abs(len(stream) * frames - (1000 if frames else 0)) <= 10


def test_the_oldest_firmware_sends_audio_on_the_reply_characteristic() -> None:
    host = LiveHost(OLDEST)
    stream = [d for _, d in notified(microphone(host, True, 0.25), ml.FROM_GLASSES)]
    assert [d[:1] + len(d).to_bytes(2, "big") for d in stream] == [b"\xa0\x01\x91"] * 2


def test_lost_microphone_commands_can_be_provoked() -> None:
    host = LiveHost()
    host.live.quirks.lose_microphone_commands = 4
    assert [host.live.microphone is not None for _ in range(5) if microphone(host, True) is not None] == [
        False, False, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("survives", [False, True])
def test_the_microphone_ends_with_the_link_unless_the_quirk_is_on(survives: bool) -> None:
    host = LiveHost()
    host.live.quirks.microphone_survives_loss = survives
    microphone(host, True)
    host.drop()
    assert (host.live.microphone is not None) == survives
    host.connect()
    assert bool(notified(host.wait(0.3), ml.AUDIO)) == survives


def test_voice_detection_sends_nothing_while_there_is_silence() -> None:
    host = LiveHost()
    host.android({"type": "set_mic_vad_state", "enabled": True})
    assert notified(microphone(host, True, 1.0), ml.AUDIO) == []


# --- people -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (UserInput(Action.TAP), 0),
        (UserInput(Action.DOUBLE_TAP), 1),
        (UserInput(Action.TRIPLE_TAP), 2),
        (UserInput(Action.LONG_PRESS), 3),
        (UserInput(Action.SWIPE, None, "forward"), 4),
        (UserInput(Action.SWIPE, None, "back"), 5),
        (UserInput(Action.SWIPE, None, "up"), 6),
        (UserInput(Action.SWIPE, None, "down"), 7),
    ],
)
def test_each_touch_has_its_code(what: UserInput, code: int) -> None:
    host = LiveHost()
    assert said(host.live.user(what, host.now)) == [{"C": "sr_tpevt", "B": {"type": code}}]


@pytest.mark.parametrize(
    "what",
    [
        UserInput(Action.LOOK_UP),
        UserInput(Action.WEAR),
        UserInput(Action.CASE, None, "open"),
        UserInput(Action.TAP, "left"),
        UserInput(Action.SWIPE),
        UserInput(Action.PRESS, None, "forever"),
        UserInput(Action.BATTERY, None, 101),
        UserInput(Action.CHARGE, None, 5),
    ],
)
def test_what_the_glasses_do_not_have_finds_no_taker(what: UserInput) -> None:
    host = LiveHost()
    with pytest.raises(NoTaker):
        host.live.user(what, host.now)


def test_nobody_hears_a_touch_without_a_link_or_a_subscription() -> None:
    host = LiveHost()
    host.take(host.live.subscribed("main", host.link, ml.FROM_GLASSES, False, host.now))
    with pytest.raises(NoTaker, match="notifications are off"):
        host.live.user(UserInput(Action.TAP), host.now)
    host.drop()
    with pytest.raises(NoTaker, match="not connected"):
        host.live.user(UserInput(Action.TAP), host.now)


def test_battery_and_charging_are_told() -> None:
    host = LiveHost()
    assert said(host.live.user(UserInput(Action.BATTERY, None, 50), host.now))[0]["B"] == {
        "vt": 3750,
        "pt": 50,
    }
    host.live.user(UserInput(Action.CHARGE), host.now)
    assert host.chip("cs_hrt")[0]["B"]["charg"] == 1


def test_an_empty_battery_shuts_the_glasses_down() -> None:
    host = LiveHost()
    host.take(host.live.user(UserInput(Action.BATTERY, None, 0), host.now))
    assert any(isinstance(e, Disconnect) for e in host.wait(1.0))
    host.drop()
    with pytest.raises(NoTaker, match="empty"):
        host.live.user(UserInput(Action.PRESS), host.now)


def test_the_advertisement_of_a_secure_unit_carries_its_pairing_code() -> None:
    (new,), (old,) = (
        ml.peripherals(NEWEST, "C0:00:00:00:AB:CD", 0x1234),
        ml.peripherals(CLASSIC, "C0:00:00:00:AB:CD"),
    )
    payload = new.manufacturer_data[2:]
    assert new.manufacturer_data[:2] == b"\x22\xb8"
    assert (new.name, payload[5], payload[8:12]) == ("Xy_A", 1, b"\x34\x12MP")
    assert (old.name, old.manufacturer_data) == ("XyBLE_ABCD", b"")


# --- anything at all ----------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    [
        "timestamp",
        "mId",
        "requestId",
        "bleImgId",
        "transferMethod",
        "size",
        "mtu",
        "mode",
        "streamId",
        "ackId",
        "enabled",
        "enable",
        "ssid",
        "password",
        "fileName",
        "missingPackets",
        "success",
        "state",
        "index",
        "t",
        "id",
        "c",
        "n",
        "d",
        "coreToken",
        "save",
    ]
)
fields = st.builds(
    lambda kind, rest: {"type": kind, **rest},
    st.sampled_from(sorted(ml._ANDROID)) | st.text(max_size=5),
    st.dictionaries(keys, values | st.sampled_from(["ble", "I1", True, 0, 1]), max_size=6),
)
writes = st.one_of(
    st.binary(min_size=1, max_size=250),
    st.builds(lambda f: k900.frame(k900.json_bytes({"C": json.dumps(f), "W": 1}), "little"), fields),
    st.builds(
        lambda name, body: k900.frame(k900.json_bytes({"C": name, "B": body}), "big"),
        st.sampled_from(sorted(ml._CHIP)),
        values,
    ),
    st.builds(
        lambda flags, i, n, body: k900.Fragment(flags, 1, i, n, body).frame(),
        st.integers(0, 31), st.integers(0, 3), st.integers(0, 4), st.binary(max_size=60),
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([OLDEST, CLASSIC, NEWEST]),
    st.sampled_from([23, 185, 512]),
    st.lists(
        st.tuples(
            st.sampled_from([TO_GLASSES, ml.FILES_TO_GLASSES, ml.SPEAKER]),
            writes,
            st.sampled_from([0, 0.01, 3]),
        ),
        max_size=12,
    ),
)
def test_any_bytes_are_answered_or_ignored(
    build: ml.Build, mtu: int, script: list[tuple[str, bytes, float]]
) -> None:
    host = LiveHost(build, mtu=mtu)
    for uuid, data, wait in script:
        if host.live.arms["main"].state is not ArmState.CONNECTED:
            break
        host.write(uuid, data, wait)
    host.wait(200.0 if host.live.microphone is None else 1.0)
    assert all(len(data) <= mtu - 3 for _, data in host.sent)
    assert len(host.live._timers) < 64
    host.live.snapshot()
