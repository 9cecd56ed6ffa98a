"""docs/add-glasses.md, tried: a fifth, tiny model of glasses in one class, driven by the same core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from edge.core.arm import Connect, Write
from edge.core.glasses import Glasses, GlassesEffect, GlassesTiming, Target
from edge.profiles.base import (
    Action,
    Advert,
    Arm,
    Battery,
    Command,
    Driver,
    Event,
    Gatt,
    Gesture,
    Lane,
    Pace,
    Packet,
    Profile,
    Reply,
    Show,
    Sighting,
    TextWall,
    Touch,
    Unknown,
    Unsupported,
)


class TinyDriver(Driver):
    """Text lines: `T<n> words` is answered `A<n>`, `?` is answered `!<battery>`, a tap says `tap`."""

    def __init__(self) -> None:
        self._number = 0

    def opened(self, arm: Arm) -> None:
        return

    def init(self, arm: Arm) -> Sequence[Sequence[Command]]:
        return ((self.heartbeat(arm),),)

    def heartbeat(self, arm: Arm) -> Command:
        return Command("hello", lambda _: (Packet(b"?", reply="!"),), lane=Lane.HEARTBEAT, tries=1)

    def commands(self, arm: Arm, action: Action) -> Sequence[Command]:
        if not isinstance(action, Show):
            raise Unsupported(f"Tiny has no {type(action).__name__}")
        words = action.layout.text if isinstance(action.layout, TextWall) else ""

        def encode(payload_max: int) -> Sequence[Packet]:
            self._number += 1
            return (Packet(f"T{self._number} {words}".encode()[:payload_max], reply=f"A{self._number}"),)

        return (Command("text", encode, lane=Lane.BULK, tries=1),)

    def decode(self, arm: Arm, char: str, data: bytes, now: float) -> list[Event]:
        words = data.decode("ascii", "replace")
        if words.startswith("A"):
            return [Reply(words)]
        if words.startswith("!") and words[1:].isdigit():
            return [Reply("!"), Battery(min(100, int(words[1:])))]
        return [Touch(Gesture.SINGLE_TAP)] if words == "tap" else [Unknown(data)]


class Tiny(Profile):
    key: ClassVar[str] = "tiny"
    model = "Tiny Glass"
    arms = (Arm.WHOLE,)
    gatt = Gatt("0000aaaa-0000-1000-8000-00805f9b34fb", "write", ("notify",))
    pace = Pace(heartbeat=8.0)
    audio = None
    capabilities: ClassVar[dict[str, Any]] = {"modelName": "Tiny Glass", "hasDisplay": True}

    def recognise(self, advert: Advert) -> Sighting | None:
        return Sighting(Arm.WHOLE, "tiny") if advert.name == "Tiny" else None

    def driver(self) -> TinyDriver:
        return TinyDriver()


def test_a_fifth_model_shows_text_after_one_class_and_one_line() -> None:
    glasses = Glasses(Tiny(), Target(), GlassesTiming(), lambda: 0.5)
    now = 0.0
    lens: list[bytes] = []
    pending: list[GlassesEffect] = [*glasses.start(now), *glasses.sighted(Advert("AA", "Tiny"), now)]
    pending += glasses.handle_deadline(now := 2.0)
    pending += glasses.want(Show(TextWall("first light")), now)
    while pending:
        effect = pending.pop(0)
        now += 0.01
        match effect:
            case Connect(arm, conn_id):
                pending += glasses.link_up(arm, conn_id, 100, now)
            case Write(arm, conn_id, write_id, data):
                pending += glasses.written(arm, conn_id, write_id, None, now)
                if data.startswith(b"T"):
                    lens.append(data)
                answer = b"!80" if data == b"?" else b"A" + data[1:].split(b" ")[0]
                pending += glasses.notified(arm, conn_id, "notify", answer, now)
            case _:
                pass
    assert glasses.state.value == "ready"
    assert lens == [b"T1 first light"]
    assert glasses.level == 80
