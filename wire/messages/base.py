"""What every message has: a wire name, a direction, a delivery class, and validation of each member.

Rules: one class per message; Python names are snake_case, wire names are camelCase unless the wire says otherwise
(then the alias is written out). Unknown members are ignored, for clients are always newer than we think.
`timestamp` of a peer is never used for order or expiry.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, TypeAlias, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Delivery(StrEnum):
    """What happens to a message when the link is down or the queue is full (architecture section 5)."""

    RELIABLE = "reliable"  # kept, replayed in order; a full queue closes the connection, never the session
    LATEST = "latest"  # only the newest per key counts
    LOSSY = "lossy"  # dropped and counted; never delivered old


class Direction(StrEnum):
    GLASSES_TO_CLOUD = "glasses -> cloud"
    CLOUD_TO_GLASSES = "cloud -> glasses"
    APP_TO_CLOUD = "app -> cloud"
    CLOUD_TO_APP = "cloud -> app"
    CLOUD_TO_APP_SERVER = "cloud -> app server (HTTP)"


#: ISO-8601 with milliseconds in what we send; phones send that or epoch milliseconds.
Timestamp: TypeAlias = str | int | float | None

#: Identifiers chosen by peers: opaque, bounded, never parsed.
Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
Package: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
Url: TypeAlias = Annotated[str, Field(min_length=1, max_length=4096)]
Words: TypeAlias = Annotated[str, Field(max_length=10_000)]


def _lenient_bool(value: object) -> object:
    # Old phones send "true"/"false" in words (wire spec 2.3, VAD).
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value


LenientBool: TypeAlias = Annotated[bool, BeforeValidator(_lenient_bool)]


class Message(BaseModel):
    """Base of all messages. `wire_name()` is the value of `type`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    direction: ClassVar[Direction]
    delivery: ClassVar[Delivery] = Delivery.RELIABLE
    #: Seconds after which a reliable message that could not be delivered is given up (and its sender told) rather
    #: than delivered late; None: never too late.
    life: ClassVar[float | None] = None
    #: Wire names whose null is meaningful and therefore sent; every other null is left out.
    sends_null: ClassVar[frozenset[str]] = frozenset()
    #: One sentence for docs/protocol.md.
    about: ClassVar[str] = ""

    type: str
    timestamp: Timestamp = None

    @classmethod
    def wire_name(cls) -> str:
        """The literal that stands in `type`."""
        return str(get_args(cls.model_fields["type"].annotation)[0])

    def latest_key(self) -> str:
        """What a `latest` message is the newest of."""
        return self.type

    def to_wire(self) -> dict[str, Any]:
        """The JSON object, without meaningless nulls."""
        dumped = self.model_dump(by_alias=True, exclude_none=True)
        for name in self.sends_null:
            dumped.setdefault(name, None)
        return dumped


class Part(BaseModel):
    """A nested object of a message."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


def iso(epoch: float) -> str:
    """Seconds since 1970 as the wire's `T` form: 2026-01-01T00:00:00.000Z."""
    return (
        datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(epoch * 1000) % 1000:03d}Z"
    )


Registry: TypeAlias = dict[str, type[Message]]


def registry(*classes: type[Message]) -> Registry:
    """Wire name -> class, for one direction."""
    table = {cls.wire_name(): cls for cls in classes}
    if len(table) != len(classes):
        raise ValueError("two classes claim one wire name")
    return table
