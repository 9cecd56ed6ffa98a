"""The simulated Frame: the narrow prompt, the radio's one packet, programs, display, camera, sound, bond, people."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.firmware import frame as fr
from firmware_sim.firmware.base import (
    ATT_INVALID_LENGTH,
    BLANK,
    Action,
    Advertise,
    ArmState,
    AudioFormat,
    Disconnect,
    ForgetBond,
    Lit,
    Microphone,
    NoTaker,
    PictureItem,
    Refuse,
    TextItem,
    UserInput,
)
from firmware_sim.firmware.frame import TO_FRAME
from firmware_sim.firmware.picture import GreenCard
from tests.support.frame_host import FrameHost, heard, new_frame

# --- the prompt -----------------------------------------------------------------------------------------------------


def test_a_second_text_before_the_prompt_looked_overwrites_the_first() -> None:
    host = FrameHost()
    host.send("print(1)", wait=0.001)
    assert host.send("print(2)") == [b"2"]


def test_a_text_while_another_runs_is_lost() -> None:
    host = FrameHost()
    host.send("frame.sleep(0.5) print(1)", wait=0.05)
    assert host.send("print(2)", wait=1.0) == [b"1"]
    assert host.send("print(3)") == [b"3"]


def test_a_text_is_cut_at_246_bytes_and_at_a_zero() -> None:
    host = FrameHost()
    assert host.send(b"print(1)\0print(2)") == [b"1"]
    host.take(host.frame.mtu_changed("main", host.link, 517, host.now))
    host.send(b"x=1".ljust(246) + b"x=2")
    assert host.send("print(x)") == [b"1"]


@pytest.mark.failure("BLE-05")
def test_a_write_longer_than_the_mtu_is_refused() -> None:
    host = FrameHost(mtu=23)
    assert host.send("print(1)") == [b"1"]
    effects = host.frame.written("main", host.link, TO_FRAME, b"print(1234567890123456)", host.now)
    assert effects == [Refuse(ATT_INVALID_LENGTH)]
    host.send("m=frame.bluetooth"[:20])
    host.send("m = m.max_length()")
    assert host.send("print(m)") == [b"19"]


def test_each_printed_value_is_a_packet_and_those_the_radio_cannot_hold_are_lost() -> None:
    host = FrameHost()
    assert host.send("print(1, 2)") == [b"1"]
    assert host.send("print('a') frame.sleep(0.01) print('b')") == [b"a", b"b"]
    assert host.send("print(('x'):rep(300))") == [b"x" * 244]


def test_send_says_busy_and_a_program_that_tries_again_gets_through() -> None:
    host = FrameHost()
    (_, error) = host.send(
        "frame.bluetooth.send('a') ok, e = pcall(frame.bluetooth.send, 'b') frame.sleep(.1) print(e)", 0.5
    )
    assert error == b"bluetooth is busy"
    loop = "for i = 65, 74 do while not pcall(frame.bluetooth.send, string.char(i)) do end end"
    assert host.send(loop, 1.0) == [bytes([1, c]) for c in range(65, 75)]


def test_a_program_that_never_ends_needs_a_break_before_the_reset_works() -> None:
    host = FrameHost()
    host.send("while true do end")
    assert host.send(b"\x04", wait=1.0) == []
    assert host.frame._tasks
    assert b"break signal" in host.send(b"\x03")[0]
    assert not host.frame._tasks
    assert host.send("print(1)") == [b"1"]


def test_the_usual_start_of_a_driver_works_in_every_state() -> None:
    for before in ("", "while true do end", "frame.sleep(1000)", "while true do frame.sleep(0.01) end"):
        host = FrameHost()
        if before:
            host.send(before)
        for control in (b"\x03", b"\x04", b"\x03"):
            host.send(control, wait=0.2)
        assert host.send("print(1)") == [b"1"]


def test_main_lua_runs_at_boot_and_after_a_reset() -> None:
    host = FrameHost(
        files={
            "main.lua": b"frame.display.text('up', 1, 1) frame.display.show() while true do frame.sleep(1) end"
        }
    )
    host.wait(0.1)
    assert host.text == "up"
    host.send(b"\x03")
    host.send("frame.display.show()")
    assert host.text == ""
    host.send(b"\x04")
    assert host.text == "up"


def test_a_text_that_came_during_main_lua_runs_after_it() -> None:
    host = FrameHost(files={"main.lua": b"while true do frame.sleep(1) end"})
    assert host.send("print(5)") == []
    assert host.send(b"\x03")[-1:] == [b"main.lua:1: break signal"]
    assert host.send("print(6)") == [b"6"]


def test_an_error_in_main_lua_is_printed_and_the_prompt_lives() -> None:
    host = FrameHost()
    host.frame.files["main.lua"] = b"\nnothing()"
    assert host.send(b"\x04") == [b"main.lua:2: attempt to call a nil value (global 'nothing')"]
    assert host.send("print(1)") == [b"1"]


# --- data and files -------------------------------------------------------------------------------------------------


def test_data_goes_to_the_callback_even_while_a_program_runs() -> None:
    host = FrameHost()
    host.send("frame.bluetooth.receive_callback(function(d) frame.bluetooth.send('got ' .. d) end)")
    assert host.send(b"\x01one") == [b"\x01got one"]
    host.send("while true do end")
    assert host.send(b"\x01two") == [b"\x01got two"]
    host.send(b"\x03")
    host.send("frame.bluetooth.receive_callback(nil)")
    assert host.send(b"\x01three") == []


def test_a_second_packet_before_the_callback_ran_overwrites_the_first() -> None:
    host = FrameHost()
    host.send("frame.bluetooth.receive_callback(function(d) frame.bluetooth.send(d) end)")
    host.send(b"\x01a", wait=0.0)
    assert host.send(b"\x01b") == [b"\x01b"]


def test_an_error_in_a_callback_ends_the_program() -> None:
    host = FrameHost()
    host.send(
        "frame.bluetooth.receive_callback(function() local x = nil + 1 end) while true do frame.sleep(1) end"
    )
    (error,) = host.send(b"\x01a")
    assert b"attempt to perform arithmetic on a nil value" in error
    assert host.send("print(1)") == [b"1"]


@pytest.mark.parametrize("bad", ["5", "'f'", "{}"])
def test_a_callback_is_a_function_or_nil(bad: str) -> None:
    (error,) = FrameHost().send(f"frame.bluetooth.receive_callback({bad})")
    assert error.endswith(b"expected nil or function")


def test_a_program_is_uploaded_in_pieces_and_required() -> None:
    host = FrameHost()
    program = "local m = {}\nfunction m.twice(x)\n  return 2 * x\nend\nreturn m\n"
    assert host.send("f=frame.file.open('m.lua','w');print(1)") == [b"1"]
    for at in range(0, len(program), 20):
        piece = program[at : at + 20].replace("\n", "\\n")
        assert host.send(f'f:write("{piece}");print(1)') == [b"1"]
    assert host.send("f:close();print(nil)") == [b"nil"]
    assert host.send("print(require('m').twice(21))") == [b"42"]
    assert host.send("print(require('m') == require('m'))") == [b"true"]
    assert b"module 'n' not found" in host.send("require('n')")[0]


def test_files_can_be_read_listed_renamed_and_removed() -> None:
    host = FrameHost(files={"a.txt": b"one\ntwo"})
    assert host.send("f = frame.file.open('a.txt') print(f:read())") == [b"one\n"]
    assert host.send("print(f:read(2))") == [b"tw"]
    assert host.send("f:read() print(f:read())") == [b"nil"]
    assert host.send(
        "frame.file.rename('a.txt', 'b.txt') frame.file.mkdir('d') l = frame.file.listdir('.') print(#l)"
    ) == [b"3"]
    assert host.send("print(l[3].name .. l[3].size)") == [b"b.txt7"]
    host.send("frame.file.remove('b.txt')")
    assert host.frame.files == {}
    for wrong in ("frame.file.open('x')", "frame.file.open('x', 'z')", "frame.file.remove('x')", "f:read()"):
        assert host.send(wrong)[0].startswith(b"[string"), wrong


def test_the_memory_for_files_is_bounded() -> None:
    host = FrameHost()
    host.send(
        "f = frame.file.open('big', 'w') s = ('x'):rep(60000) for i = 1, 10 do f:write(s) end", wait=1.0
    )
    assert heard(host.effects)[-1].endswith(b"no space left")
    assert len(host.frame.files["big"]) <= fr.FILE_BYTES_MAX


# --- display --------------------------------------------------------------------------------------------------------


def test_text_is_seen_after_show_and_the_next_drawing_begins_empty() -> None:
    host = FrameHost()
    assert host.text == "Ready to Pair C7"
    host.send("frame.display.text('Hello', 50, 100)")
    assert host.text == "Ready to Pair C7"
    before = len(host.effects)
    host.send("frame.display.text('World', 50, 160) frame.display.show()")
    assert host.frame.arms["main"].screen.items == (
        TextItem("Hello", 49, 99, 591, 60, 1),
        TextItem("World", 49, 159, 591, 60, 1),
    )
    assert host.text == "Hello\nWorld"
    assert Lit("main") in host.effects[before:]
    host.send("frame.display.show()")
    assert host.frame.arms["main"].screen == BLANK


def test_a_sprite_becomes_pixels_and_colour_zero_stays_dark() -> None:
    host = FrameHost()
    host.send("frame.display.bitmap(1, 1, 8, 2, 0, '\\xf0\\x0f') frame.display.show()")
    assert host.frame.arms["main"].screen.items == (PictureItem(0, 0, 8, 2, b"\xf0\x0f"),)
    host.send("frame.display.bitmap(11, 21, 4, 16, 0, '\\x10\\x02\\x00\\xff') frame.display.show()")
    assert host.frame.arms["main"].screen.items == (PictureItem(10, 20, 4, 2, b"\x90\x30"),)
    host.send("frame.display.bitmap(1, 1, 4, 4, 0, '\\xe4') frame.display.show()")
    assert host.frame.arms["main"].screen.items == (PictureItem(0, 0, 4, 1, b"\xe0"),)


def test_a_sprite_is_cut_at_the_edge_of_the_panel() -> None:
    host = FrameHost()
    host.send("frame.display.bitmap(637, 400, 8, 2, 0, '\\xff\\xff') frame.display.show()")
    assert host.frame.arms["main"].screen.items == (PictureItem(636, 399, 4, 1, b"\xf0"),)


def test_what_is_black_is_not_lit() -> None:
    host = FrameHost()
    host.send("frame.display.text('a', 1, 1, {color = 'VOID'}) frame.display.show()")
    assert host.frame.arms["main"].screen == BLANK
    host.send("frame.display.assign_color('RED', 0, 0, 0)")
    host.send("frame.display.text('a', 1, 1, {color = 'RED'}) frame.display.show()")
    assert host.frame.arms["main"].screen == BLANK
    host.send("frame.display.assign_color('RED', 255, 0, 0)")
    host.send("frame.display.text('a', 1, 1, {color = 'RED'}) frame.display.show()")
    assert host.text == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        "frame.display.text('a', 0, 1)", "frame.display.text('a', 641, 1)", "frame.display.text('a', 1, 401)",
        "frame.display.text('a')", "frame.display.text(nil, 1, 1)", "frame.display.text('a', 1, 1, {color='PUCE'})",
        "frame.display.bitmap(1, 1, 8, 3, 0, 'x')", "frame.display.bitmap(1, 1, 0, 2, 0, 'x')",
        "frame.display.bitmap(1, 1, 8, 2, 16, 'x')", "frame.display.set_brightness(3)",
        "frame.display.assign_color('RED', 0, 0, 256)", "frame.camera.capture{resolution=99}",
        "frame.camera.capture{resolution=101}", "frame.camera.capture{quality='BEST'}", "frame.camera.capture{pan=200}",
        "frame.camera.read(0)", "frame.camera.set_gain(0)", "frame.microphone.start{sample_rate=44100}",
        "frame.microphone.start{bit_depth=12}", "frame.microphone.read(3)", "frame.led.set_color(0, 0, 101)",
        "frame.time.zone('x')", "frame.time.utc(-1)", "frame.sleep(-1)", "frame.sleep('x')", "frame.fpga_read(1, 999)",
        "frame.imu.tap_callback(1)",
    ],
)  # fmt: skip
def test_a_wrong_argument_is_a_lua_error_with_its_place(wrong: str) -> None:
    (error,) = FrameHost().send(wrong)
    assert error.startswith(b'[string "')
    assert b"]:1: " in error or b'..."]:1: ' in error


def test_power_save_darkens_the_display_and_keeps_what_it_shows() -> None:
    host = FrameHost()
    host.send("frame.display.text('a', 1, 1) frame.display.show() frame.display.power_save(true)")
    assert host.frame.arms["main"].screen == BLANK
    host.send("frame.display.power_save(false)")
    assert host.text == "a"


def test_the_drawings_of_one_screen_are_bounded() -> None:
    host = FrameHost()
    host.send("for i = 1, 1000 do frame.display.text('a', 1, 1) end", wait=1.0)
    assert len(host.frame._back) == fr.DRAWINGS_MAX


# --- camera and microphone ------------------------------------------------------------------------------------------

PHOTO = """
frame.camera.capture{resolution = 256, quality = 'LOW'}
while not frame.camera.image_ready() do frame.sleep(0.01) end
while true do
  local part = frame.camera.READ(frame.bluetooth.max_length() - 1)
  if part == nil then break end
  while not pcall(frame.bluetooth.send, '\\x07' .. part) do end
end
while not pcall(frame.bluetooth.send, '\\x08') do end
"""


@pytest.mark.parametrize(("read", "skipped"), [("read", 0), ("read_raw", fr.JPEG_HEADER)])
@pytest.mark.parametrize("mtu", [64, 185, 247])
def test_a_photo_arrives_in_pieces_and_in_order(read: str, skipped: int, mtu: int) -> None:
    host = FrameHost(mtu=mtu, files={"photo.lua": PHOTO.replace("READ", read).encode()})
    packets = host.send("require('photo')", wait=5.0)
    assert packets[-1] == b"\x01\x08"
    assert {p[:2] for p in packets[:-1]} == {b"\x01\x07"}
    assert b"".join(p[2:] for p in packets[:-1]) == GreenCard().jpeg(0, 0, 0)[skipped:]
    assert max(len(p) for p in packets) <= mtu - 3


class Tone:
    """Counts what is asked; every sample is 0x0102."""

    def __init__(self) -> None:
        self.samples = 0

    def lc3(self, frame_bytes: int, count: int) -> list[bytes]:
        raise AssertionError("Frame does not ask for LC3")

    def pcm(self, samples: int, rate: int) -> bytes:
        self.samples += samples
        return b"\x02\x01" * samples


@pytest.mark.parametrize(("rate", "depth"), [(8000, 8), (8000, 16), (16000, 8), (16000, 16)])
def test_sound_comes_in_real_time_and_ends_with_nil(rate: int, depth: int) -> None:
    tone = Tone()
    host = FrameHost(audio=tone)
    effects = host.write(
        TO_FRAME, f"frame.microphone.start{{sample_rate={rate},bit_depth={depth}}} print(1)".encode(), 0.1
    )
    assert Microphone(True) in effects
    assert host.frame.microphone == AudioFormat("pcm", rate, depth // 8)
    host.wait(0.9)
    host.send("n = 0 repeat s = frame.microphone.read(512) n = n + #s until s == '' print(n)", wait=0.2)
    heard_bytes = int(heard(host.effects)[-1])
    assert abs(heard_bytes - rate * depth // 8) < rate * depth // 8 * 0.1
    assert heard(host.write(TO_FRAME, b"frame.microphone.stop() print(2)", 0.2)) == [b"2"]
    assert host.frame.microphone is None
    assert Microphone(False) in host.effects
    assert host.send("while frame.microphone.read(512) do end print(frame.microphone.read(2))", wait=1.0) == [
        b"nil"
    ]


def test_sound_that_nobody_reads_is_overwritten() -> None:
    host = FrameHost(audio=Tone())
    host.send("frame.microphone.start{sample_rate=16000,bit_depth=16}")
    host.wait(60.0)
    host.send("frame.microphone.stop()")
    assert host.frame._listening is not None
    assert len(host.frame._listening.queue) == 2 * fr.FIFO_SAMPLES


def test_a_reset_switches_the_microphone_off() -> None:
    host = FrameHost()
    host.send("frame.microphone.start{}")
    assert Microphone(False) in host.write(TO_FRAME, b"\x04", 0.1)


# --- motion, time, power --------------------------------------------------------------------------------------------


def test_taps_reach_a_program_one_by_one() -> None:
    host = FrameHost()
    host.send(
        "frame.imu.tap_callback(function() frame.bluetooth.send('\\9') end) while true do frame.sleep(1) end"
    )
    for action, count in ((Action.TAP, 1), (Action.DOUBLE_TAP, 2), (Action.TRIPLE_TAP, 3)):
        host.take(host.frame.user(UserInput(action), host.now))
        assert heard(host.wait(1.0)) == [b"\x01\x09"] * count


def test_looking_up_tilts_the_frame() -> None:
    host = FrameHost()
    assert host.send("print(frame.imu.direction().pitch)") == [b"0.0"]
    host.frame.user(UserInput(Action.LOOK_UP), host.now)
    assert host.send("print(frame.imu.direction().pitch)") == [b"30.0"]
    assert host.send("print(frame.imu.raw().accelerometer.x)") == [b"2048"]
    host.frame.user(UserInput(Action.LOOK_DOWN), host.now)
    assert host.send("print(frame.imu.raw().accelerometer.z)") == [b"4096"]


def test_the_clock_runs_once_it_was_told() -> None:
    host = FrameHost()
    host.send("frame.time.utc(1750000000)")
    host.wait(100.0)
    (now,) = host.send("print(frame.time.utc())")
    assert 1750000099 < float(now) < 1750000102
    host.send("frame.time.zone('+02:00')")
    assert host.send(
        "d = frame.time.date(0) print(d.year .. '-' .. d.month .. '-' .. d.day .. ' ' .. d.hour)"
    ) == [b"1970-1-1 2"]


def test_sleep_without_an_argument_goes_dark_and_a_tap_wakes() -> None:
    host = FrameHost(files={"main.lua": b"frame.display.text('up', 1, 1) frame.display.show()"})
    assert any(isinstance(e, Disconnect) for e in host.write(TO_FRAME, b"frame.sleep()", 0.1))
    host.drop()
    assert host.frame.arms["main"].state is ArmState.DARK
    assert host.frame.arms["main"].screen == BLANK
    assert Advertise("main", True) in host.frame.user(UserInput(Action.TAP), host.now)
    host.wait(0.1)
    assert host.text == "up"


def test_a_program_goes_on_while_nobody_is_connected() -> None:
    host = FrameHost(files={"main.lua": b"n = 0 while true do n = n + 1 frame.sleep(0.1) end"})
    host.drop()
    host.wait(10.0)
    host.connect()
    host.send(b"\x03")
    (count,) = host.send("print(n)")
    assert 95 <= int(count) <= 105


# --- bond -----------------------------------------------------------------------------------------------------------


@pytest.mark.failure("BLE-13")
def test_a_second_host_is_refused_and_the_cradle_button_frees_the_bond() -> None:
    host = FrameHost()
    frame = host.frame
    assert frame.pairing_requested("main", host.link, "host A", host.now) == []
    frame.paired("main", host.link, "host A", host.now)
    assert host.text == "Ready to Pair C7"  # older firmware does not redraw before a reboot
    host.drop()
    host.connect()
    assert [type(e) for e in frame.pairing_requested("main", host.link, "host B", host.now)] == [Disconnect]
    assert [type(e) for e in frame.pairing_requested("main", host.link, "host A", host.now)] == [Disconnect]
    assert ForgetBond("main") in frame.user(UserInput(Action.CASE, None, "button"), host.now)
    assert frame.may_pair("main", "host B")


def test_a_bonded_frame_says_so_after_its_next_boot() -> None:
    host = FrameHost(bond="host A")
    assert host.text == "Frame C7 is Paired"


def test_both_characteristics_need_an_encrypted_link() -> None:
    (spec,) = fr.peripherals("C7:00:00:57:86:3C")
    assert all(c.encrypted for c in spec.services[0].characteristics)
    assert (spec.name, spec.mtu_max, spec.advertised_services) == ("Frame C7", 247, (fr.SERVICE,))


# --- people ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        UserInput(Action.TAP),  # no program listens
        UserInput(Action.TAP, "left"),
        UserInput(Action.WEAR),
        UserInput(Action.PRESS),
        UserInput(Action.LONG_PRESS),
        UserInput(Action.SWIPE, None, "up"),
        UserInput(Action.BATTERY, None, True),
        UserInput(Action.CHARGE, None, "maybe"),
        UserInput(Action.CASE, None, "lid"),
    ],
)
def test_what_the_glasses_do_not_have_finds_no_taker(what: UserInput) -> None:
    with pytest.raises(NoTaker):
        FrameHost().frame.user(what, 1.0)


def test_battery_and_cradle() -> None:
    host = FrameHost()
    host.frame.user(UserInput(Action.BATTERY, None, 12), host.now)
    assert host.send("print(frame.battery_level())") == [b"12"]
    assert any(
        isinstance(e, Disconnect) for e in host.frame.user(UserInput(Action.CASE, None, "in"), host.now)
    )
    host.drop()
    assert Advertise("main", True) in host.frame.user(UserInput(Action.CASE, None, "out"), host.now)
    host.frame.user(UserInput(Action.BATTERY, None, 0), host.now)
    with pytest.raises(NoTaker, match="empty"):
        host.frame.user(UserInput(Action.TAP), host.now)


# --- anything at all ------------------------------------------------------------------------------------------------

calls = (
    "frame.display.text('a',1,1) frame.display.show() frame.display.bitmap(1,1,8,2,0,'xyz') frame.camera.capture{}"
    " print(frame.camera.read(50)) frame.microphone.start{} frame.microphone.stop() print(#(frame.microphone.read(8)or''))"
    " frame.bluetooth.receive_callback(function(d)print(d)end) frame.imu.tap_callback(function()end) frame.sleep(0.3)"
    " frame.sleep() while(true)do(nil)end while(1)do(frame.sleep(.1))end print(frame.time.date().hour) error({})"
    " frame.file.open('main.lua','w'):write('print(1)') require('main') frame.update() x=nil+1 f:close()"
)
writes = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.sampled_from([b"\x03", b"\x04", b"\x05", b"\x01abc", b"\x00", b"print(1)\0x"]),
    st.lists(st.sampled_from(calls.split(" ")), min_size=1, max_size=4).map(lambda c: ";".join(c).encode()),
)
people = st.sampled_from(
    [UserInput(a, None, v) for a in Action for v in (None, 0, 50, "in", "out", "button")]
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([23, 185, 247]),
    st.lists(st.tuples(writes | people, st.sampled_from([0.0, 0.02, 0.5])), max_size=12),
)
def test_any_bytes_are_answered_or_ignored(mtu: int, script: list[tuple[bytes | UserInput, float]]) -> None:
    host = FrameHost(mtu=mtu)
    for what, wait in script:
        if isinstance(what, UserInput):
            try:
                host.take(host.frame.user(what, host.now))
            except NoTaker:
                pass
        elif host.frame.arms["main"].state is ArmState.CONNECTED:
            host.take(host.frame.written("main", host.link, TO_FRAME, what[: mtu - 3], host.now))
        host.wait(wait)
        if any(isinstance(e, Disconnect) for e in host.effects) and host.frame.arms["main"].link == host.link:
            host.drop()
    assert all(len(data) <= mtu - 3 for _, data in host.sent)
    assert len(host.frame._timers) < 8
    host.frame.snapshot()


def test_the_same_history_gives_the_same_bytes() -> None:
    def story() -> list[tuple[str, bytes]]:
        host = FrameHost()
        for line in (
            "print({}, print)",
            "t = {} print(t)",
            "frame.camera.capture{} frame.sleep(1) print(#frame.camera.read(99))",
        ):
            host.send(line, wait=2.0)
        return host.sent

    assert story() == story()


def test_a_new_frame_waits_for_nothing() -> None:
    frame = new_frame()
    frame.start(0.0)
    assert frame.deadline is None
