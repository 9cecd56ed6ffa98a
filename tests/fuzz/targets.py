"""Every decoder as a function of bytes, for the committed corpus (`test_corpus.py`) and for atheris (`make fuzz`).

Rules: a target returns for any bytes; an exception that leaves it is a finding. It holds what a decoder promises: a value
or its documented error, the same for every way in which a stream is cut, and sizes that stay bounded. Targets that need
several inputs read theirs as a script: of packets for radios, of lines for sockets.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import orjson
from websockets.frames import Frame, Opcode

from cloud.audio_uplink import FRAME_BYTES, AudioUplink
from cloud.core.ownership import OwnerRecord
from edge.audio import SpeechDecoder
from edge.config import EdgeConfig, Wearer
from edge.core.uplink import UplinkState
from edge.profiles import PROFILES
from edge.profiles.base import (
    AudioPacket,
    Blank,
    Brightness,
    Light,
    Microphone,
    Notify,
    Picture,
    Send,
    Show,
    TakePhoto,
    TextWall,
    Unsupported,
)
from edge.profiles.mentra_live import FrameReader as EdgeFrameReader
from edge.profiles.mentra_live import JsonFrame
from firmware_sim.firmware import MODELS, base, k900
from firmware_sim.hci_port import SimError
from firmware_sim.scenario import load_scenario
from glassbridge import recording
from glassbridge import scenario as scenarios
from glassbridge.output import CommandError
from tests.cloud.core.test_session import PACKAGE, Shell
from tests.cloud.test_listener_fuzz import agree
from tests.edge.world import World
from tests.fuzz import test_codec, test_config, test_layouts
from tests.fuzz.strategies import members
from wire.errors import ConfigError, ProtocolError
from wire.layouts import flatten
from wire.link import Link, LinkLimits, LinkState, join, split
from wire.messages import ALL, Delivery
from wire.messages.glasses_to_cloud import LinkHello
from wire.streams import NAME_MAX, STREAM_PERMISSIONS, SUBSCRIPTIONS_MAX, event_key, parse_subscriptions
from wire.trace import line

Target = Callable[[bytes], None]

CORPUS = Path(__file__).parent / "corpus"
VECTORS = Path(__file__).parents[1] / "vectors"
#: Packets or lines of one input: a message of several parts, twice.
STEPS_MAX = 32
#: Bytes that a driver may keep of a half-read message: its largest frame and a little.
BUFFER_MAX = 64 << 10


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(selector, packet): one byte each for the selector and the length; a length of 255 takes the rest."""
    at = 0
    for _ in range(STEPS_MAX):
        if at + 2 > len(data):
            return
        selector, size = data[at], data[at + 1]
        size = len(data) if size == 255 else size
        yield selector, data[at + 2 : at + 2 + size]
        at += 2 + size


def script(*steps: tuple[int, bytes]) -> bytes:
    """What `packets` reads back; a packet of over 254 bytes can only be the last."""
    return b"".join(bytes((selector, min(255, len(packet)))) + packet for selector, packet in steps)


def loaded(data: bytes) -> Any:
    """The JSON value, or ... when it is none."""
    try:
        return orjson.loads(data)
    except ValueError:
        return ...


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """For decoders that read files; one per process."""
    return tempfile.TemporaryDirectory(prefix="glassbridge-fuzz-")


def file(data: bytes, name: str) -> Path:
    path = Path(folder().name) / name
    path.write_bytes(data)
    return path


# ------------------------------------------------------------------------------------------------------------- wire


def text(data: bytes) -> None:
    """Text frames of all four directions."""
    for registry in ALL:
        test_codec.check(registry, data)


def link(data: bytes) -> None:
    """The tail of a frame, and a link whose peer writes the lines of `data`; `{` begins a hello."""
    value = loaded(data)
    if isinstance(value, dict) and data.endswith(b"}"):
        body, offset, ack = split(data)
        assert isinstance(loaded(body), dict), "what the tail is cut from stays JSON"
        if value:
            assert split(join(data, 7, 8)) == (data, 7, 8)
        assert (offset is None and ack is None) == (body == data)
    limits = LinkLimits(log_messages_max=6, window_messages=3, latest_keys_max=2)
    ends = [Link("me", initiator=initiator, limits=limits) for initiator in (False, True)]
    for end in ends:
        end.connected(1, 0.0)
    for number, frame in enumerate(data.split(b"\n")[:STEPS_MAX]):
        now = float(number)
        hello = loaded(frame)
        for end in ends:
            if isinstance(hello, dict) and "ownEpoch" in hello and not end.initiator:
                with contextlib.suppress(ValueError):
                    end.greeted(1, LinkHello.model_validate(hello), now)
            end.received(1, frame, now)
            end.send(b'{"n":%d}' % number, list(Delivery)[number % 3], now=now, key=str(number), life=5.0)
            end.handle_deadline(now)
            assert end.backlog <= limits.log_messages_max
            assert (end.connection_id is None) == (end.state in (LinkState.DETACHED, LinkState.CLOSED))
            if end.connection_id is None and end.state is not LinkState.CLOSED:
                end.connected(1, now)


def subscriptions(data: bytes) -> None:
    """The list of a `subscription_update`, and the key of an event."""
    value = loaded(data)
    entries = value if isinstance(value, list) else data.decode("utf-8", "replace").split("\n")
    good, bad = parse_subscriptions(entries)
    assert len({s.name for s in good}) == len(good) <= SUBSCRIPTIONS_MAX
    assert all(len(s.name) <= NAME_MAX for s in good)
    assert len(good) + len(bad) <= len(entries)
    assert parse_subscriptions([s.name for s in good if s.rate is None]) is not None
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        event_key(value)


def layouts(data: bytes) -> None:
    """A layout, and what a dashboard makes of it."""
    value = loaded(data)
    if value is ...:
        return
    test_layouts.check(value)
    with contextlib.suppress(ProtocolError):
        assert isinstance(flatten(value), str)


def trace(data: bytes) -> None:
    """One value as one line."""
    value = loaded(data)
    if value is ...:
        return
    written = line(1.0, "m", "in", "n", value)
    assert written.count(b"\n") == 1
    assert orjson.loads(written)["n"] == "n"


# ------------------------------------------------------------------------------------------------------------ cloud


def websocket(data: bytes) -> None:
    """The frame parser: our fast path and `websockets` alone make the same of it, whole and byte by byte."""
    agree(data, [])
    agree(data, list(range(1, len(data))))


def audio(data: bytes) -> None:
    """Binary frames: the first byte chooses the format; whole and byte by byte give the same sound."""
    if not data:
        return
    pieces, heard = data[1:], []
    for cuts in ([pieces], [pieces[at : at + 1] for at in range(len(pieces))]):
        decoder = AudioUplink()
        if size := (0, *FRAME_BYTES)[data[0] % 4]:
            decoder.configure("lc3", {"sampleRate": 16_000, "frameDurationMs": 10, "frameSizeBytes": size})
        heard.append(b"".join(decoder.decode(piece, 0.0) for piece in cuts))
        assert len(decoder._rest) < max(2, size)
    assert heard[0] == heard[1]
    assert len(heard[0]) % 2 == 0
    for profile in PROFILES.values():
        if profile.audio is not None and profile.audio.frame_bytes:
            frames = (pieces[: profile.audio.frame_bytes], pieces[20:])
            assert len(SpeechDecoder(profile.audio).decode(0, data[0] % 8, frames)) % 2 == 0


def session(data: bytes) -> None:
    """Lines for a session, from the glasses or (after an `a`) from an app: whatever it sends on is JSON."""
    shell = Shell()
    glasses = shell.glasses(greets=data[:1] != b"{")
    app = shell.app(PACKAGE, "button_press", "touch_event", "phone_notification", "transcription:en-US")
    for frame in data.split(b"\n")[:STEPS_MAX]:
        if frame[:1] == b"a":
            shell.do(shell.session.app_text(PACKAGE, app, frame[1:], shell.now))
        else:
            shell.do(shell.session.glasses_text(glasses, frame, shell.now))
    shell.run(6.0)
    assert all(isinstance(message, dict) for message in (*shell.to_glasses(), *shell.to_app(app)))


def owner(data: bytes) -> None:
    """A record that another node wrote."""
    record = OwnerRecord.decode(data)
    assert record is None or OwnerRecord.decode(record.encode()) == record


# -------------------------------------------------------------------------------------------------------- the radio


def edge(model: str, data: bytes) -> None:
    """Notifications to the driver of a model that has been asked for everything it can do."""
    profile = PROFILES[model]
    driver = profile.driver()
    for arm in profile.arms:
        driver.opened(arm)
        commands = [command for step in driver.init(arm) for command in step]
        for action in (
            Show(TextWall("Grüße")), Show(Picture("Qk0=")), Show(Blank()), Microphone(True),
            Brightness(50), TakePhoto("r1"), Light("r2", True), Notify(1, "a", "App", "t", "s", "x", 0),
        ):  # fmt: skip
            with contextlib.suppress(Unsupported):
                commands += driver.commands(arm, action)
        for command in commands:
            with contextlib.suppress(Unsupported):
                command.encode(244)
    now = 0.0
    for selector, packet in packets(data):
        arm = profile.arms[selector & 1 and len(profile.arms) - 1]
        char = profile.gatt.notify[(selector >> 1) % len(profile.gatt.notify)]
        for event in driver.decode(arm, char, packet, now):
            if isinstance(event, Send):
                assert all(len(part.data) <= 244 for part in event.command.encode(244))
            elif (
                isinstance(event, AudioPacket) and profile.audio is not None and not profile.audio.frame_bytes
            ):
                assert all(len(samples) % 2 == 0 for samples in event.frames)
        now += (0.01, 0.5, 2.0, 40.0)[selector >> 6]
        if driver.deadline is not None and driver.deadline <= now:
            driver.handle_deadline(now)
            assert driver.deadline is None or driver.deadline > now
    reader = getattr(driver, "_reader", None)
    assert reader is None or len(reader._buffer) <= BUFFER_MAX


def edge_live_stream(data: bytes) -> None:
    """Framed JSON of the K900: both readers, whole and byte by byte. File packets are left out: re-cut ones are
    recognised by where a notification ends."""
    if any(b"##" + bytes((kind,)) in data for kind in range(k900.PHOTO, k900.DATA + 1)):
        return
    whole, single = EdgeFrameReader(), EdgeFrameReader()
    at_once, _ = whole.feed(data)
    assert at_once == [found for byte in data for found in single.feed(bytes((byte,)))[0]]
    assert all(isinstance(found, JsonFrame) for found in at_once)
    assert len(whole._buffer) <= BUFFER_MAX


def sim_live_stream(data: bytes) -> None:
    """The simulator's reader of the same."""
    whole, single = k900.FrameReader(), k900.FrameReader()
    at_once = whole.feed(data)
    assert at_once == [found for byte in data for found in single.feed(bytes((byte,)))]
    assert len(whole._buffer) <= k900.PAYLOAD_MAX + k900.FRAME_OVERHEAD
    for found in at_once:
        k900.unwrap(found.payload)
        k900.read_fragment(found.payload)
    k900.read_file_packet(data)


def sim(model: str, data: bytes) -> None:
    """Writes to a firmware; the first byte chooses the MTU. It acts, answers or ignores, and always has a state to show."""
    if not data:
        return
    addresses = tuple(f"C0:00:00:00:00:0{n}" for n in range(4))
    firmware = MODELS[model](base.Identity(1, 7, addresses, 123), chance=lambda: 0.5, audio=base.Silence())
    mtu, now = (23, 185, 247, 517)[data[0] & 3], 0.0
    firmware.start(now)
    names = list(firmware.arms)

    def take(effects: list[base.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, base.Notify):
                assert len(effect.data) <= mtu - base.ATT_HEADER
            elif isinstance(effect, base.Disconnect) and firmware.arms[effect.arm].link == effect.link:
                take(firmware.disconnected(effect.arm, effect.link, now))

    for number, name in enumerate(names, 1):
        take(firmware.connected(name, number, mtu, now))
        for characteristic in characteristics(firmware.arms[name]):
            if characteristic.notify:
                take(firmware.subscribed(name, number, characteristic.uuid, True, now))
    for selector, packet in packets(data[1:]):
        arm = firmware.arms[names[selector & 1 and len(names) - 1]]
        writable = [c for c in characteristics(arm) if c.write or c.write_without_response]
        if arm.link is not None:
            into = writable[(selector >> 1) % len(writable)]
            take(firmware.written(arm.name, arm.link, into.uuid, packet[: mtu - base.ATT_HEADER], now))
        now += (0.01, 0.1, 1.0, 6.0)[selector >> 6]
        for _ in range(50):  # sound comes every 10 ms; the rest of it is not what we are after
            if (due := firmware.deadline) is None or due > now:
                break
            take(firmware.handle_deadline(due))
    assert len(firmware._timers) <= base.TIMERS_MAX
    json.dumps(firmware.snapshot())


def characteristics(arm: base.Arm) -> list[base.CharacteristicSpec]:
    return [found for service in arm.spec.services for found in service.characteristics]


def bridge(data: bytes) -> None:
    """Lines from the cloud to a whole edge with connected glasses: it stays online, or says goodbye and dials anew."""
    world = World().start()
    world.run(3.0)
    assert world.node.uplink.state is UplinkState.ONLINE
    for frame in data.split(b"\n")[:STEPS_MAX]:
        if (connection := world.node.uplink.conn_id) is not None:
            world.do(world.node.received(connection, frame, world.now))
        world.run(0.05)
    world.run(1.0)


# ------------------------------------------------------------------------------------------------------------ files


def config(data: bytes) -> None:
    """The file of the cloud and that of the edge."""
    path = file(data, "config.toml")
    test_config.check(path, {}, {}, path.parent)
    with contextlib.suppress(ConfigError):
        EdgeConfig.load(path, {"data_dir": str(path.parent)})


def scenario(data: bytes) -> None:
    """A story for `dev --once`, and one for the simulator."""
    path = file(data, "scenario.toml")
    with contextlib.suppress(CommandError):
        assert scenarios.load(path).steps
    with contextlib.suppress(SimError):
        load_scenario(path)


def recorded(data: bytes) -> None:
    """A recording: what can be read can be written, and means the same."""
    path = file(data, "recording.jsonl")
    try:
        entries = recording.read(path)
    except CommandError:
        return
    recording.expectations(entries)
    file(recording.header() + b"".join(map(recording.line, entries)), "again.jsonl")


TARGETS: dict[str, Target] = {
    "text": text,
    "link": link,
    "subscriptions": subscriptions,
    "layouts": layouts,
    "trace": trace,
    "websocket": websocket,
    "audio": audio,
    "session": session,
    "owner": owner,
    **{f"edge_{model}": partial(edge, model) for model in PROFILES},
    "edge_live_stream": edge_live_stream,
    **{f"sim_{model}": partial(sim, model) for model in MODELS},
    "sim_live_stream": sim_live_stream,
    "bridge": bridge,
    "config": config,
    "scenario": scenario,
    "recording": recorded,
}


# ------------------------------------------------------------------------------------------------------------ seeds


def committed(target: str) -> list[Path]:
    """The files of a target's corpus, sorted."""
    return sorted((CORPUS / target).iterdir())


def seeds(target: str) -> list[bytes]:
    """Where a fuzzer begins, beside the corpus: good input out of what the repository has anyway."""
    side, _, model = target.partition("_")
    if side in ("edge", "sim") and model in PROFILES:
        return [_of_vector(side, model, vector) for vector in _vectors(model, side)]
    if target.endswith("_stream"):
        return [bytes.fromhex(v["hex"]) for s in ("edge", "sim") for v in _vectors("live", s)]
    if target == "websocket":
        return [
            Frame(op, b"hello" * 20).serialize(mask=True) for op in (Opcode.TEXT, Opcode.BINARY, Opcode.PING)
        ]
    if target == "audio":
        return [bytes((form,)) + bytes(120) for form in range(4)]
    if target == "owner":
        return [OwnerRecord("node", 7).encode()]
    if target in ("text", "session"):
        return [orjson.dumps({"type": name}) for registry in ALL for name in registry]
    if target == "recording":
        entries: list[recording.Line] = [
            recording.Input(0.5, {"action": "tap"}),
            recording.Shown(1.0, "left", "hi", b"\1\0", 2),
        ]
        return [recording.header() + b"".join(map(recording.line, entries))]
    if target == "config":
        return [
            b'cloud = "ws://127.0.0.1:1"\n[[wearers]]\nuser = "a"\nglasses = "g1:7"\n',
            b'port = 1\n[auth]\nsecret = "x"\n',
        ]
    if target == "layouts":
        return [orjson.dumps(value) for value in test_layouts.VALID]
    if target == "scenario":
        return [path.read_bytes() for path in (Path(__file__).parents[2] / "examples").glob("*.toml")]
    return []


def words(target: str) -> set[str]:
    """What a fuzzer of JSON or TOML cannot guess: the names that the decoder knows."""
    if target == "config":
        return set(test_config.KEYS) | set(EdgeConfig.model_fields) | set(Wearer.model_fields)
    if target == "layouts":
        return {name for value in test_layouts.VALID for name in value} | {
            str(v["layoutType"]) for v in test_layouts.VALID
        }
    if target in ("text", "session", "bridge", "trace", "subscriptions", "link"):
        known = {name for registry in ALL for model in registry.values() for name in members(model)}
        return (
            known
            | {name for registry in ALL for name in registry}
            | {"linkOffset", "linkAck", *STREAM_PERMISSIONS}
        )
    return set()


def _vectors(model: str, side: str) -> list[dict[str, Any]]:
    wanted = "from_glasses" if side == "edge" else "to_glasses"
    found = [
        v
        for path in sorted((VECTORS / model).glob("*.json"))
        for v in json.loads(path.read_bytes()).get("vectors", ())
    ]
    return [vector for vector in found if vector["direction"] == wanted]


def _of_vector(side: str, model: str, vector: dict[str, Any]) -> bytes:
    """The packet on its own characteristic, once on each arm where the vector says so."""
    data = bytes.fromhex(vector["hex"])
    if side == "edge":
        notify = PROFILES[model].gatt.notify
        at = notify.index(vector["characteristic"]) if vector.get("characteristic") in notify else 0
        return script((at << 1 | (vector.get("arm") == "right"), data))
    return b"\2" + script((int(vector.get("arm") == "right"), data))
