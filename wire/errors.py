"""What can go wrong: the exception tree, the codes said on the wire and the WebSocket close codes.

Rules: `retryable` is decided where an error is made, never where it is caught. A message names what is wrong,
why, and where it helps the fix. It never carries user content, tokens or keys.

    BridgeError
    ├── ConfigError          the operator: what, why, fix; exit 78, no traceback
    ├── InvalidTransition    us: a bug; counted, ends one session, never the process
    ├── ProtocolError        the peer: malformed, too large, unexpected, unauthorised
    ├── UplinkError          the network or the cloud
    └── GlassesError         the radio or the glasses
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class BridgeError(Exception):
    """Root of everything that Glassbridge raises on purpose."""


class ConfigError(BridgeError):
    """The operator's configuration cannot be used."""

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(f"{what}: {why}. {fix}")
        self.what = what
        self.why = why
        self.fix = fix


class InvalidTransition(BridgeError):
    """A machine was driven along an edge that its table does not list. The machine has not changed."""

    def __init__(self, machine: str, state: object, to: object) -> None:
        super().__init__(f"{machine}: no transition {state} -> {to}")
        self.machine = machine
        self.state = state
        self.to = to


class ErrorCode(StrEnum):
    """Machine-readable codes used in error frames and REST bodies. Clients show `message`, programs read `code`."""

    # MentraOS' own (clients know these)
    INVALID_API_KEY = "INVALID_API_KEY"
    APP_NOT_STARTED = "APP_NOT_STARTED"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    INVALID_JWT = "INVALID_JWT"
    JWT_INVALID = "JWT_INVALID"
    JWT_SIGNATURE_FAILED = "JWT_SIGNATURE_FAILED"
    MISSING_HEADERS = "MISSING_HEADERS"
    PACKAGE_NOT_FOUND = "PACKAGE_NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    WIFI_NOT_CONNECTED = "WIFI_NOT_CONNECTED"
    INVALID_TOKEN = "INVALID_TOKEN"
    SESSION_ERROR = "SESSION_ERROR"
    NO_ACTIVE_SESSION = "NO_ACTIVE_SESSION"
    # ours: conditions that the original folds into one
    GLASSES_DISCONNECTED = "GLASSES_DISCONNECTED"
    DRAINING = "DRAINING"
    OVERLOADED = "OVERLOADED"
    APP_UNREACHABLE = "APP_UNREACHABLE"
    APP_INCOMPATIBLE = "APP_INCOMPATIBLE"
    UNSUPPORTED = "UNSUPPORTED"
    TIMEOUT = "TIMEOUT"
    RATE_LIMITED = "RATE_LIMITED"
    TOO_LARGE = "TOO_LARGE"
    NOT_FOUND = "NOT_FOUND"
    WRONG_PACKAGE = "WRONG_PACKAGE"
    REPLACED = "REPLACED"


class CloseCode(IntEnum):
    """WebSocket close codes we send, with what the peer makes of them (wire spec 1.8 and 3.11)."""

    NORMAL = 1000  # finished: an SDK app runs onStop and stays away
    GOING_AWAY = 1001  # finished, to an SDK app as well; phones reconnect
    UNSUPPORTED_DATA = 1003
    INVALID_PAYLOAD = 1007  # not UTF-8
    POLICY = 1008  # authentication failed; an SDK app stays away WITHOUT onStop: never after a session was up
    TOO_BIG = 1009
    INTERNAL = 1011
    SERVICE_RESTART = 1012  # come back: an SDK app retries at +1 s and +3 s
    TRY_AGAIN_LATER = 1013  # overload or slow consumer: come back
    REPLACED = 4409  # a newer connection of the same identity took over: a good client does not fight


#: Close codes after which our edge stays away until told otherwise; every other close is retried for ever.
TERMINAL_CLOSES = frozenset({CloseCode.REPLACED})


class ProtocolError(BridgeError):
    """A peer said something that cannot be used."""

    def __init__(self, code: ErrorCode, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field  # dotted path of the offending member, where one is to blame


class UplinkError(BridgeError):
    """The way to the cloud is broken."""

    def __init__(self, message: str, *, retryable: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.status = status  # HTTP status of a refused upgrade, where there was one


class GlassesFault(StrEnum):
    """Why the radio or the glasses could not do what was asked."""

    NOT_FOUND = "not_found"  # not advertising: in the case, out of range, or held by another phone
    LINK_LOST = "link_lost"
    CONNECT_FAILED = "connect_failed"
    TIMEOUT = "timeout"
    REFUSED = "refused"  # an ATT error or a negative acknowledgement
    NOT_PAIRED = "not_paired"
    ADAPTER_DOWN = "adapter_down"
    ADAPTER_MISSING = "adapter_missing"
    ADAPTER_QUIET = "adapter_quiet"  # scans and hears no device at all: it hangs, or nothing advertises here
    BUSY = "busy"
    PERMISSION = "permission"
    INCOMPATIBLE = "incompatible"  # a service or characteristic that the profile needs is not there
    PROTOCOL = "protocol"


class GlassesError(BridgeError):
    """A radio operation failed; the reason says which words and which cure fit."""

    def __init__(self, fault: GlassesFault, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.fault = fault
        self.retryable = retryable
