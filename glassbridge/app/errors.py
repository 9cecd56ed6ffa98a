"""What an app can run into, as exceptions.

Rules: each says what happened and what the caller can do about it; none carries content that a wearer said or saw.
"""

from __future__ import annotations

from wire.errors import BridgeError


class AppError(BridgeError):
    """Root of what the app client raises."""


class NotConnected(AppError):
    """There is no connection to the cloud at this moment, so nothing was sent."""

    def __init__(self, what: str, state: str) -> None:
        super().__init__(f"{what} was not sent: the session is {state}")


class ConnectionLost(AppError):
    """The connection went away while an answer was awaited."""


class RequestTimeout(AppError):
    """The cloud did not answer a request in time."""


class PhotoFailed(AppError):
    """The glasses could not deliver the photo; `code` is the reason they gave."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"photo failed ({code}): {message}")
        self.code = code


class StreamFailed(AppError):
    """The video stream did not begin; the reason as the cloud or the glasses gave it."""

    def __init__(self, message: str) -> None:
        super().__init__(f"the video stream did not begin: {message}")


class StorageError(AppError):
    """The cloud refused to read or write the app's storage; `status` is its HTTP status, 0 when it was not reached."""

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"{what}: {message} (HTTP {status})" if status else f"{what}: {message}")
        self.status = status
