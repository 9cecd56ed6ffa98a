"""The key that places a session: stable, says nothing about the user, and survives what SDKs do to URLs."""

from __future__ import annotations

import re

import pytest

from wire.placement import claimed_user, session_key, split_path, with_prefix, with_query


def test_a_user_has_one_key_whatever_the_case_of_the_address() -> None:
    assert session_key("Anna@Home.example") == session_key("anna@home.example") == "v3piuqesein7iogmpdm3l33h"
    assert session_key("anna@home.example") != session_key("otto@home.example")
    assert re.fullmatch("[a-z2-7]{24}", session_key("ö@x"))


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("ws://h:1/glasses-ws", "ws://h:1/glasses-ws?s=k"),
        ("wss://h/glasses-ws?token=a%26b", "wss://h/glasses-ws?token=a%26b&s=k"),
        ("wss://h/x/glasses-ws?s=old&v=", "wss://h/x/glasses-ws?v=&s=k"),
    ],
)
def test_a_glasses_url_carries_it_as_its_query(url: str, wanted: str) -> None:
    assert with_query(url, "k") == wanted
    assert with_query(with_query(url, "k"), "k") == wanted


def test_an_app_url_carries_it_before_the_suffix_that_sdks_cut_off() -> None:
    key = session_key("anna@home.example")
    url = with_prefix("ws://h:1/app-ws", key)
    assert url == f"ws://h:1/s/{key}/app-ws"
    rest = re.sub(r"/app-ws$", "", url) + "/api/sdk/simple-storage/anna"
    assert split_path(rest.removeprefix("ws://h:1")) == (key, "/api/sdk/simple-storage/anna")
    assert split_path(f"/s/{key}/app-ws") == (key, "/app-ws")


@pytest.mark.parametrize(
    "path", ["/", "/app-ws", "/s/", "/s/short/app-ws", "/s/" + "a" * 24, "/S/" + "a" * 24 + "/x"]
)
def test_other_paths_are_left_alone(path: str) -> None:
    assert split_path(path) == (None, path)


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.e30.c", "a.bnVsbA.c", "a.eyJlbWFpbCI6NX0.c", "a.!!.c", "a." + "x" * 9000 + ".c"]
)
def test_a_token_that_names_nobody_is_no_hint(token: str) -> None:
    assert claimed_user(token) is None
