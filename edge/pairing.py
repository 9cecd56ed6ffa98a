"""Finding glasses and pairing with them: what `glassbridge edge scan` and `glassbridge pair` do.

Rules: progress goes through a callback, never to a terminal. Saved glasses change only after both arms have answered
as their model does (failure catalogue BLE-13); a search that is broken off changes nothing. Two pairs that cannot be
told apart are shown to the person, never guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from edge.ble import BleakRadio, Link, Radio
from edge.profiles import PROFILES, recognise
from edge.profiles.base import Advert, Arm, Profile, Reply
from wire.errors import ConfigError, GlassesError, GlassesFault

#: Glasses advertise several times a second; ten seconds show also those that sleep between bursts.
SCAN_SECONDS = 10.0
#: ... and once a whole pair is seen, another one in the room would have shown up within this (they advertise every 0.1 s).
SETTLE = 3.0
#: A greeting is answered in 20 to 40 ms; a slow link needs a few intervals.
ANSWER_MAX = 3.0

Progress = Callable[[str], None]


@dataclass(slots=True)
class Found:
    """One pair of glasses (or a single device) in sight."""

    model: str  # key of the profile
    name: str  # of the model
    pair: str
    arms: dict[Arm, list[tuple[str, int | None]]] = field(default_factory=dict)  # address and dBm

    @property
    def complete(self) -> bool:
        """Every arm seen, and each under one address."""
        wanted = PROFILES[self.model].arms
        return all(len(self.arms.get(arm, ())) == 1 for arm in wanted)

    @property
    def ambiguous(self) -> bool:
        """Two devices claim one arm: two pairs share their channel number."""
        return any(len(seen) > 1 for seen in self.arms.values())

    @property
    def addresses(self) -> dict[Arm, str]:
        """In the order in which the model's arms are told things."""
        return {arm: self.arms[arm][0][0] for arm in PROFILES[self.model].arms if arm in self.arms}


async def scan(
    radio: Radio,
    seconds: float = SCAN_SECONDS,
    on_found: Progress = lambda _: None,
    settle: float | None = None,
) -> list[Found]:
    """All glasses in sight, complete pairs first. `on_found` is told each new arm as it shows up. With `settle` it ends
    when a whole pair is seen and nothing new has shown up for that long."""
    found: dict[tuple[str, str], Found] = {}
    fresh = asyncio.Event()

    def seen(advert: Advert) -> None:
        known = recognise(advert)
        if known is None:
            return
        profile, sighting = known
        pair = found.setdefault(
            (profile.key, sighting.pair), Found(profile.key, profile.model, sighting.pair)
        )
        arm = pair.arms.setdefault(sighting.arm, [])
        if all(address != advert.address for address, _ in arm):
            arm.append((advert.address, advert.rssi))
            fresh.set()
            on_found(f"{profile.model}, pair {sighting.pair}, {sighting.arm}: {advert.address}")

    ends = asyncio.get_running_loop().time() + seconds
    radio.watch(seen)
    try:
        while (left := ends - asyncio.get_running_loop().time()) > 0:
            whole = settle is not None and any(pair.complete for pair in found.values())
            fresh.clear()
            try:
                async with asyncio.timeout(min(left, settle) if whole and settle is not None else left):
                    await fresh.wait()
            except TimeoutError:
                if whole:
                    break
    finally:
        radio.unwatch(seen)
    return sorted(found.values(), key=lambda pair: (not pair.complete, pair.model, pair.pair))


def choose(found: list[Found], wanted: str | None = None) -> Found:
    """The one pair to take: `wanted` names its key or one of its addresses. Raises ConfigError with what to do."""
    matching = [
        pair
        for pair in found
        if wanted is None
        or wanted == pair.pair
        or any(wanted.upper() == a.upper() for a in pair.addresses.values())
    ]
    if not matching:
        raise ConfigError(
            "no glasses in sight",
            "they are in the closed case, out of range, or held by another phone",
            "Open the case beside this machine, disconnect them in the phone's app, then: glassbridge pair",
        )
    whole = [pair for pair in matching if pair.complete]
    if any(pair.ambiguous for pair in matching) or len(whole) > 1 or (not whole and len(matching) > 1):
        names = ", ".join(f"{pair.model}:{pair.pair}" for pair in matching)
        raise ConfigError(
            f"more than one pair in sight ({names})",
            "only you can say which is yours",
            "Name one address of it: glassbridge pair --glasses ADDRESS",
        )
    if not whole:
        missing = [arm for arm in PROFILES[matching[0].model].arms if arm not in matching[0].arms]
        raise ConfigError(
            f"only a part of {matching[0].name} is in sight",
            f"no sign of: {', '.join(missing)}",
            "Charge both arms, open the case, then: glassbridge pair",
        )
    return whole[0]


async def greet(radio: Radio, found: Found, on_progress: Progress = lambda _: None) -> None:
    """Connect and bond each arm, and hear it answer as its model does. Raises GlassesError."""
    profile = PROFILES[found.model]
    for arm in profile.arms:
        on_progress(f"{arm}: connecting" + (" and pairing" if profile.bonds else ""))
        answers: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(maxsize=64)
        try:
            link = await radio.connect(
                found.addresses[arm],
                profile.gatt,
                pair=profile.bonds,
                on_notify=lambda char, data, answers=answers: _keep(answers, char, data),  # type: ignore[misc]
                on_closed=lambda _: None,
            )
            try:
                on_progress(f"{arm}: connected, greeting")
                await _converse(profile, arm, link, answers)
            finally:
                await link.close()
        except GlassesError as error:
            raise GlassesError(error.fault, f"{arm}: {error}", retryable=error.retryable) from error
        on_progress(f"{arm}: answers")


def _keep(answers: asyncio.Queue[tuple[str, bytes]], char: str, data: bytes) -> None:
    with contextlib.suppress(asyncio.QueueFull):
        answers.put_nowait((char, data))


async def _converse(
    profile: Profile, arm: Arm, link: Link, answers: asyncio.Queue[tuple[str, bytes]]
) -> None:
    """Say the first step of the model's greeting until one alternative is answered."""
    driver = profile.driver()
    driver.opened(arm)
    steps = driver.init(arm)
    if not steps:
        return
    now = asyncio.get_running_loop().time
    for command in steps[0]:
        packets = command.encode(link.payload_max)
        for packet in packets:
            await link.write(packet.data, response=packet.response, char=packet.char)
        wanted = packets[-1].reply
        if wanted is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_MAX):
                while True:
                    char, data = await answers.get()
                    if Reply(wanted) in driver.decode(arm, char, data, now()):
                        return
    raise GlassesError(GlassesFault.PROTOCOL, "connected, but the firmware does not answer", retryable=True)


async def pair(
    radio_spec: str,
    wanted: str | None = None,
    seconds: float = SCAN_SECONDS,
    on_progress: Progress = lambda _: None,
) -> Found:
    """The whole ritual on one radio. Raises ConfigError or GlassesError; on return both arms have answered."""
    radio = BleakRadio(radio_spec)
    await radio.start()
    try:
        found = choose(await scan(radio, seconds, on_progress, SETTLE), wanted)
        await greet(radio, found, on_progress)
        return found
    finally:
        await radio.stop()


async def look(
    radio_spec: str, seconds: float = SCAN_SECONDS, on_progress: Progress = lambda _: None
) -> list[Found]:
    """Scan on one radio and stop it again. Raises GlassesError if there is no usable adapter."""
    radio = BleakRadio(radio_spec)
    await radio.start()
    try:
        return await scan(radio, seconds, on_progress)
    finally:
        await radio.stop()
