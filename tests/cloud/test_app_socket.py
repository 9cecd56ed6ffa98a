"""Who an app socket says it is."""

from __future__ import annotations

import pytest

from cloud.app_socket import Claim
from wire.errors import ProtocolError


@pytest.mark.failure("CON-11")
@pytest.mark.parametrize(
    ("package", "session_id", "user"),
    [
        ("b-c", "a-b-c", "a"),
        ("c", "a-b-c", "a-b"),
        ("com.x", "Anna-B@x.io-com.x", "anna-b@x.io"),
        ("com.x", "a:b%@x-com.x", "a:b%@x"),
    ],
)
def test_a_session_id_is_matched_by_its_own_package_and_never_split(
    package: str, session_id: str, user: str
) -> None:
    assert Claim(package, "k", session_id).user() == user


@pytest.mark.parametrize("session_id", ["", "-com.x", "com.x", "a-com.y", "nohyphen"])
def test_a_session_id_of_another_app_is_refused(session_id: str) -> None:
    with pytest.raises(ProtocolError):
        Claim("com.x", "k", session_id).user()
