"""The simulated firmwares: pure machines, one file per glasses model. A new model is one line in `MODELS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from firmware_sim.firmware import frame, g1, mentra_live, nex
from firmware_sim.firmware.base import AudioSource, Firmware, Identity
from firmware_sim.firmware.picture import PictureSource


class Builder(Protocol):
    def __call__(
        self,
        identity: Identity,
        *,
        chance: Callable[[], float],
        audio: AudioSource,
        pictures: PictureSource | None = None,
    ) -> Firmware:
        """`pictures`: what a camera sees; models without one take no notice."""


MODELS: dict[str, Builder] = {
    "g1": g1.build,
    "live": mentra_live.build,
    "nex": nex.build,
    "frame": frame.build,
}
