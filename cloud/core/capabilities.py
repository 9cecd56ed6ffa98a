"""What each glasses model can do, in the words that apps read (wire spec, appendix B).

Rules: an unknown model is unknown (None), never assumed to be some other model. Partial updates that lack a model name
change nothing. The table of a model with a driver stands in `edge/profiles` and comes with the announcement of the
glasses; the copy here serves clients that announce a name only, and a test holds the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final


def _display(
    count: int,
    width: int,
    height: int,
    field_of_view: int | None,
    lines: int,
    *,
    bitmap: bool,
    color: str = "green",
) -> dict[str, Any]:
    view = {} if field_of_view is None else {"fieldOfView": {"horizontal": field_of_view}}
    return {
        "count": count,
        "isColor": color == "full",
        "color": color,
        "canDisplayBitmap": bitmap,
        "resolution": {"width": width, "height": height},
        **view,
        "maxTextLines": lines,
        "adjustBrightness": True,
    }


def _profile(
    model: str,
    *,
    camera: dict[str, Any] | None = None,
    display: dict[str, Any] | None = None,
    microphone: dict[str, Any] | None = None,
    speaker: dict[str, Any] | None = None,
    has_imu: bool = False,
    imu: dict[str, Any] | None = None,
    button: dict[str, Any] | None = None,
    light: dict[str, Any] | None = None,
    wifi: bool = False,
) -> dict[str, Any]:
    return {
        "modelName": model,
        "hasCamera": camera is not None,
        "camera": camera,
        "hasDisplay": display is not None,
        "display": display,
        "hasMicrophone": microphone is not None,
        "microphone": microphone,
        "hasSpeaker": speaker is not None,
        "speaker": speaker,
        "hasIMU": has_imu,
        "imu": imu,
        "hasButton": button is not None,
        "button": button,
        "hasLight": light is not None,
        "light": light,
        "power": {"hasExternalBattery": False},
        "hasWifi": wifi,
    }


def _press_button(*events: str, **more: Any) -> dict[str, Any]:
    return {"count": 1, "buttons": [{"type": "press", "events": list(events), **more}]}


_SPEAKER: Final = {"count": 1, "isPrivate": False}
_LIVE_CAMERA: Final = {
    "resolution": {"width": 1920, "height": 1080},
    "hasHDR": False,
    "hasFocus": True,
    "video": {
        "canRecord": True,
        "canStream": True,
        "supportedStreamTypes": ["rtmp"],
        "supportedResolutions": [
            {"width": width, "height": height} for width, height in ((1920, 1080), (1280, 720), (640, 480))
        ],
    },
}
_LIVE_LIGHTS: Final = {
    "count": 2,
    "lights": [
        {
            "id": "privacy",
            "purpose": "privacy",
            "isFullColor": False,
            "color": "white",
            "position": "front_facing",
        },
        {
            "id": "user_feedback",
            "purpose": "user_feedback",
            "isFullColor": True,
            "color": "rgb",
            "position": "user_facing",
        },
    ],
}
_LIVE: Final = _profile(
    "Mentra Live",
    camera=_LIVE_CAMERA,
    microphone={"count": 1, "hasVAD": True},
    speaker=_SPEAKER,
    has_imu=True,
    imu={"axisCount": 6, "hasAccelerometer": True, "hasCompass": False, "hasGyroscope": True},
    button=_press_button("press", "double_press", "long_press", isCapacitive=False),
    light=_LIVE_LIGHTS,
    wifi=True,
)
_MICROPHONE: Final = {"count": 1, "hasVAD": False}
_Z100: Final = _profile("Vuzix Z100", display=_display(1, 640, 480, 30, 7, bitmap=False))

PROFILES: Final[Mapping[str, dict[str, Any]]] = {
    "Even Realities G1": _profile(
        "Even Realities G1",
        display=_display(2, 640, 200, 25, 5, bitmap=True),
        microphone=_MICROPHONE,
        has_imu=True,
    ),
    "Mentra Live": _LIVE,
    "Simulated Glasses": _profile(
        "Simulated Glasses",
        display=_display(1, 640, 480, 30, 7, bitmap=False),
        microphone=_MICROPHONE,
        speaker=_SPEAKER,
        button=_press_button("press"),
    ),
    "Vuzix Z100": _Z100,
    "Mentra Mach1": {**_Z100, "modelName": "Mentra Mach1"},  # the same hardware under another name
    # MentraOS ships no profile for these two: what their documents and drivers say.
    "Mentra Nex": _profile(
        "Mentra Nex",
        display=_display(1, 500, 220, None, 4, bitmap=True),
        microphone={"count": 1, "hasVAD": True},
        has_imu=True,
        imu={"axisCount": 9, "hasAccelerometer": True, "hasCompass": True, "hasGyroscope": True},
        button={
            "count": 3,
            "buttons": [{"type": "press", "events": ["press", "long_press"], "isCapacitive": False}] * 3,
        },
    ),
    "Brilliant Frame": _profile(
        "Brilliant Frame",
        camera={"resolution": {"width": 720, "height": 720}, "hasHDR": False, "hasFocus": False},
        display=_display(1, 640, 400, None, 6, bitmap=True, color="full"),
        microphone=_MICROPHONE,
        has_imu=True,
        imu={"axisCount": 6, "hasAccelerometer": True, "hasCompass": True, "hasGyroscope": False},
    ),
}


def capabilities_of(model: str | None) -> dict[str, Any] | None:
    """The profile of a model, or None when the model is unknown."""
    return PROFILES.get(model) if model else None


#: A table has 0.5 to 1.2 kB; every app gets a copy with its acknowledgement.
ANNOUNCED_MAX: Final = 8192


def announced(model: str, table: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The table that an edge sends with its glasses, made whole: what it does not name the glasses do not have. None if
    there is none, if it is about another model, or if it is none of the known shape (the copy here counts then)."""
    if not table or table.get("modelName") != model or len(json.dumps(table)) > ANNOUNCED_MAX:
        return None
    whole = _profile(model)
    for member, default in whole.items():
        value = table.get(member, default)
        kind = bool if isinstance(default, bool) else str if isinstance(default, str) else dict
        if not isinstance(value, kind) and not (value is None and default is None):
            return None
        whole[member] = value
    return whole


@dataclass(frozen=True, slots=True)
class HardwareRequirement:
    """One entry of an app record's `hardwareRequirements`."""

    type: str
    required: bool


_MEMBER_OF: Final = {
    "CAMERA": "hasCamera",
    "DISPLAY": "hasDisplay",
    "MICROPHONE": "hasMicrophone",
    "SPEAKER": "hasSpeaker",
    "IMU": "hasIMU",
    "BUTTON": "hasButton",
    "LIGHT": "hasLight",
    "WIFI": "hasWifi",
}


def missing_hardware(
    requirements: Iterable[HardwareRequirement], capabilities: Mapping[str, Any] | None
) -> list[str]:
    """Required hardware that the glasses are known to lack. Unknown glasses lack nothing that we know of."""
    if capabilities is None:
        return []
    return [
        r.type
        for r in requirements
        if r.required and r.type in _MEMBER_OF and not capabilities.get(_MEMBER_OF[r.type], False)
    ]
