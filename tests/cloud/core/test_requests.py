"""Questions of apps to the glasses: one end each, ids that are used once, streams with an owner."""

from __future__ import annotations

import itertools

import orjson
import pytest

from cloud.core.requests import (
    OPEN_MAX,
    STREAM_WORDS,
    Failed,
    LocationTo,
    PhotoFailed,
    Requests,
    ToApp,
    ToGlasses,
)
from wire.messages import app_to_cloud as app
from wire.messages import glasses_to_cloud as glasses

SID = "u@x-p"


def requests(*, has_glasses: bool = True) -> Requests:
    ids = itertools.count(1)
    made = Requests("u@x", new_id=lambda: f"id{next(ids)}")
    made.has_glasses = has_glasses
    return made


def play(request_id: str) -> app.AudioPlay:
    return app.AudioPlay(request_id=request_id, audio_url="https://x/a.mp3")


def test_audio_is_answered_by_the_phone_or_after_a_minute() -> None:
    asks = requests()
    [forwarded] = asks.play("p", SID, play("a"), 0.0)
    assert isinstance(forwarded, ToGlasses)
    answer = glasses.AudioPlayResponse(request_id="a", success=True, duration=12.0, error=None)
    [told] = asks.audio_answered(answer)
    assert isinstance(told, ToApp)
    assert told.message.to_wire()["duration"] == 12.0
    assert asks.audio_answered(answer) == []
    asks.play("p", SID, play("b"), 10.0)
    assert asks.deadline == pytest.approx(70.0)
    [late] = asks.handle_deadline(70.0)
    assert isinstance(late, ToApp)
    assert late.message.to_wire()["success"] is False
    assert asks.deadline is None


@pytest.mark.parametrize(("success", "told"), [(True, 0), (False, 2)])
def test_of_a_photo_only_a_failure_is_told_for_the_upload_is_the_answer(success: bool, told: int) -> None:
    asks = requests()
    asks.photo("p", SID, "https://x/p", app.AppPhotoRequest(request_id="r"), 0.0)
    answer = glasses.PhotoResponse(
        request_id="r", success=success, photo_url="https://x/1.jpg", error_code=None, error_message=None
    )
    assert len(asks.photo_answered(answer)) == told
    assert asks.deadline is None, "it is over either way"


def test_what_is_open_is_answered_by_the_node_that_goes_on_with_it_when_it_would_have_been() -> None:
    old = requests()
    old.photo("p", SID, "https://x/p", app.AppPhotoRequest(request_id="photo"), 0.0)
    old.play("p", SID, play("a"), 0.0)
    old.poll_location("p", SID, app.LocationPollRequest(correlation_id="where", accuracy="high"), 0.0)
    stream = app.RtmpStreamRequest(package_name="p", rtmp_url="rtmp://x/y")
    old.start_stream("p", SID, stream, "2026-01-01", 0.0)
    state = orjson.loads(orjson.dumps(old.export(10.0)))
    new = requests()
    new.restore(state, 1010.0)  # another machine, another clock
    assert new.photo_uploaded("photo") == "p"
    [fix] = new.location({"lat": 1.0, "lng": 2.0}, "where", 1011.0)
    assert isinstance(fix, LocationTo)
    assert fix.fix["correlationId"] == "where"
    assert any(isinstance(e, ToGlasses) for e in new.handle_deadline(1010.0)), "the stream is kept alive"
    late = new.handle_deadline(1030.0)
    assert [e.code for e in late if isinstance(e, PhotoFailed)] == ["TIMEOUT"], "after 30 s in all"
    [told] = new.audio_answered(
        glasses.AudioPlayResponse(request_id="a", success=True, error=None, duration=1.0)
    )
    assert isinstance(told, ToApp)
    stopped = new.stop_stream("p", app.RtmpStreamStop(package_name="p"))
    assert any(isinstance(e, ToApp) for e in stopped)


def test_what_a_newer_version_has_exported_is_taken_as_far_as_it_is_understood() -> None:
    new = requests()
    new.restore({"open": [["hologram", "p", "h", SID, 3.0, ""]], "more": 1}, 0.0)
    assert new.deadline is None
    new.restore({}, 0.0)


def test_an_answered_id_starts_nothing_again() -> None:
    asks = requests()
    asks.play("p", SID, play("a"), 0.0)
    asks.audio_answered(glasses.AudioPlayResponse(request_id="a", error=None, duration=None))
    assert asks.play("p", SID, play("a"), 1.0) == []


def test_open_requests_are_bounded() -> None:
    asks = requests()
    for number in range(OPEN_MAX + 50):
        asks.play("p", SID, play(str(number)), 0.0)
    assert len(asks._open) == OPEN_MAX


def test_an_app_that_is_gone_waits_for_nothing_and_its_stream_stops() -> None:
    asks = requests()
    asks.play("p", SID, play("a"), 0.0)
    asks.start_stream("p", SID, app.RtmpStreamRequest(rtmp_url="rtmps://x/y"), "T", 0.0)
    stopped = asks.app_gone("p")
    assert {e.message.type for e in stopped if isinstance(e, ToGlasses)} == {
        "stop_rtmp_stream",
        "stop_stream",
    }
    assert asks.deadline is None


def test_only_the_owner_stops_a_stream() -> None:
    asks = requests()
    [_, started, _] = asks.start_stream("p", SID, app.RtmpStreamRequest(rtmp_url="rtmp://x"), "T", 0.0)
    assert isinstance(started, ToGlasses)
    stream_id = started.message.to_wire()["streamId"]
    assert asks.stop_stream("other", app.RtmpStreamStop(stream_id=stream_id)) == []
    stopped = asks.stop_stream("p", app.RtmpStreamStop(stream_id=stream_id))
    assert [e.message.to_wire()["status"] for e in stopped if isinstance(e, ToApp)] == ["stopped"]


def test_never_two_identical_statuses_in_a_row_and_final_words_end_the_stream() -> None:
    asks = requests()
    [_, started, _] = asks.start_stream("p", SID, app.RtmpStreamRequest(rtmp_url="rtmp://x"), "T", 0.0)
    assert isinstance(started, ToGlasses)
    stream_id = started.message.to_wire()["streamId"]
    words = []
    for status in ("connecting", "streaming", "active", "reconnecting", "streaming", "stopped", "streaming"):
        report = glasses.StreamStatus(stream_id=stream_id, status=status, error_details=None)
        words += [
            e.message.to_wire()["status"] for e in asks.stream_status(report, 1.0) if isinstance(e, ToApp)
        ]
    assert words == ["active", "initializing", "active", "stopped"]
    assert set(STREAM_WORDS.values()) <= {"initializing", "active", "stopping", "stopped", "error"}


def test_a_location_poll_without_glasses_fails_at_once_unless_a_fix_is_fresh() -> None:
    asks = requests(has_glasses=False)
    poll = app.LocationPollRequest(correlation_id="c", accuracy="high")
    [failed] = asks.poll_location("p", SID, poll, 0.0)
    assert isinstance(failed, Failed)
    asks.location({"type": "location_update", "lat": 1, "lng": 2}, None, 100.0)
    assert asks.poll_location("p", SID, app.LocationPollRequest(correlation_id="d", accuracy="high"), 109.0)
    [stale] = asks.poll_location(
        "p", SID, app.LocationPollRequest(correlation_id="e", accuracy="high"), 111.0
    )
    assert isinstance(stale, Failed)
