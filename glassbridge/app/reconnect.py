"""When an app comes back after its connection closed, and when it stays away.

Rules: pure. Source of the close codes: the wire specification, sections 1.8, 3.11 and 3.12. Unlike the TypeScript SDK
we call `on_stop` for every ending, and we go on trying for a minute instead of six seconds: as long as the cloud keeps
a wearer's session, so that a cloud restart needs no help.
"""

from __future__ import annotations

from enum import Enum, auto

from wire.backoff import BackoffPolicy
from wire.errors import CloseCode


class Verdict(Enum):
    FINISHED = auto()  # over: the wearer stopped the app, or a newer connection took over
    REFUSED = auto()  # the cloud does not want this app: wrong key, or not started
    RETRY = auto()


#: Attempts 1, 3, 7, 15 ... seconds after the loss, like the SDK's first two. No jitter: the cloud paces a herd by its
#: webhooks, and the first second is what decides whether the wearer notices.
POLICY = BackoffPolicy(first=1.0, factor=2.0, ceiling=15.0, jitter=0.0)

#: The cloud holds a session for 60 s without its glasses; later only a new webhook brings the app back.
GIVE_UP_AFTER = 60.0

#: Reasons with which clouds end a session under codes that would otherwise mean "come back" (wire spec 3.11).
_FINAL_REASONS = ("App stopped", "User session ended")


def after_close(code: int, reason: str) -> Verdict:
    """What a close with this code and reason asks of the app. 1005 and 1006 stand for "none" and "torn"."""
    if code == CloseCode.POLICY:
        return Verdict.REFUSED
    if code in (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.REPLACED):
        return Verdict.FINISHED
    if any(words in reason for words in _FINAL_REASONS):
        return Verdict.FINISHED
    return Verdict.RETRY
