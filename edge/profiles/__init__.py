"""The glasses that the edge can speak to: one line per model."""

from __future__ import annotations

from edge.profiles.base import Advert, Profile, Sighting
from edge.profiles.frame import Frame
from edge.profiles.g1 import G1
from edge.profiles.mentra_live import MentraLive
from edge.profiles.nex import Nex

PROFILES: dict[str, Profile] = {profile.key: profile for profile in (G1(), MentraLive(), Nex(), Frame())}


def recognise(advert: Advert) -> tuple[Profile, Sighting] | None:
    """The model and arm behind an advertisement, or None if no driver knows it."""
    for profile in PROFILES.values():
        sighting = profile.recognise(advert)
        if sighting is not None:
            return profile, sighting
    return None
