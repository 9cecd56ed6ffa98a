"""How effects are declared: values, as the frozen dataclasses that they stand for."""

from __future__ import annotations

from dataclasses import field, fields

from wire.effect import effect


@effect
class Sent:
    connection_id: int
    payload: bytes = field(repr=False)
    key: str | None = None


def test_effects_are_compared_and_hashed_by_their_members() -> None:
    assert Sent(1, b"x") == Sent(1, b"x", None)
    assert Sent(1, b"x") != Sent(2, b"x")
    assert len({Sent(1, b"x"), Sent(1, b"x"), Sent(1, b"y")}) == 2


def test_effects_have_no_dict_and_match_by_position() -> None:
    assert not hasattr(Sent(1, b"x"), "__dict__")
    match Sent(7, b"x", "k"):
        case Sent(connection_id, _, key):
            assert (connection_id, key) == (7, "k")
    assert [f.name for f in fields(Sent)] == ["connection_id", "payload", "key"]


def test_contents_stay_out_of_the_text_form() -> None:
    assert "secret" not in repr(Sent(1, b"secret"))
