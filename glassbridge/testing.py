"""A pytest plugin for authors of apps in any language: simulated glasses to wear, a lens to look at.

    def test_captions_show_what_is_said(glasses, lens):
        with glasses.app(["npm", "run", "dev"]):
            glasses.say("where is the station")
            lens.wait_text("station")

Rules: one `glassbridge dev` serves the whole test run (or the running one named with --glassbridge-url); the app is
a process of its own that reads its port from PORT and answers `GET /health`, as every `@mentra/sdk` app does. A test
never sleeps: it waits for what the wearer would see, and fails with what is on the lens instead. What a test did to
the glasses (head up, lag, taken off) is undone at its end. Durations are seconds.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    import httpx

    from glassbridge.target import Target

Side: TypeAlias = Literal["left", "right"]

#: What a quiet machine does in 0.3 s may take a busy one so long.
WITHIN = 15.0
#: Three programs and the glasses' pairing: 4 s on a quiet machine.
START_MAX = 90.0
#: `dev` and an app server have a moment to say good-bye before they are killed.
STOP_MAX = 15.0
#: Between two looks. A lens changes at most every 0.3 s.
LOOK = 0.05
#: Lines of a failing program's output that are shown.
OUTPUT_LINES = 40


class GlassbridgeError(Exception):
    """The surroundings failed, not the app: what, why, and what to do about it."""


# -- what a test uses ---------------------------------------------------------------------------------------


class Lens:
    """What the wearer sees."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    def texts(self) -> dict[str, str]:
        """The text on each lens, lines joined by blanks; empty where it is dark.

        Raises GlassbridgeError for glasses without a display.
        """
        device = self._api.device()
        if device["display"] is None:
            raise GlassbridgeError("these glasses have no display: look at what the app does instead")
        return {name: " ".join(arm["lens"]["text"].split()) for name, arm in device["arms"].items()}

    def text(self, side: Side = "left") -> str:
        """The text on one lens; glasses with one arm have it on every side."""
        texts = self.texts()
        return texts.get(side) or next(iter(texts.values()))

    def wait_text(self, wanted: str | re.Pattern[str], *, within: float = WITHIN) -> str:
        """Waits until every lens shows `wanted` (a part of the text, or a pattern); returns the left text."""

        def shown(text: str) -> bool:
            return bool(wanted.search(text)) if isinstance(wanted, re.Pattern) else wanted in text

        def everywhere() -> bool:
            return all(shown(text) for text in self.texts().values())

        what = wanted.pattern if isinstance(wanted, re.Pattern) else wanted
        self._wait(everywhere, f"the text {what!r}", within)
        return self.text()

    def wait_gone(self, unwanted: str, *, within: float = WITHIN) -> None:
        """Waits until no lens shows this text any more."""
        self._wait(
            lambda: not any(unwanted in text for text in self.texts().values()),
            f"no {unwanted!r} any more",
            within,
        )

    def wait_picture(self, *, lit_min: int = 1, within: float = WITHIN) -> None:
        """Waits until every lens has at least so many lit dots."""
        sides = list(self.texts())
        self._wait(lambda: all(self.lit(side) >= lit_min for side in sides), f"{lit_min} lit dots", within)

    def lit(self, side: str = "left") -> int:
        """How many dots of the lens are lit."""
        pixels = self._api.get("/api/sim/framebuffer", side=side).content
        return int.from_bytes(pixels, "big").bit_count()

    def shot(self, path: str | os.PathLike[str], side: Side = "left") -> Path:
        """Writes what this lens shows as a PNG."""
        target = Path(path)
        target.write_bytes(self._api.get("/api/sim/screenshot", side=side).content)
        return target

    def _wait(self, probe: Callable[[], bool], what: str, within: float) -> None:
        if not _until(probe, within):
            seen = "; ".join(f"{name}: {text!r}" for name, text in self.texts().items())
            raise AssertionError(f"the lenses did not show {what} within {within:g} s. They show {seen}")


class Glasses:
    """Being the wearer. Each call returns once the simulated firmware has taken the input."""

    def __init__(self, api: _Api) -> None:
        self._api = api
        self._undo: dict[str, dict[str, Any]] = {}

    def tap(self, side: Side = "right", *, times: Literal[1, 2, 3] = 1) -> None:
        """Touches a temple once, twice or three times."""
        self._do(("tap", "double_tap", "triple_tap")[times - 1], side=side)

    def hold(self, side: Side = "right") -> None:
        """Presses a temple long."""
        self._do("long_press", side=side)

    def press(self) -> None:
        """Presses the button, on models that have one."""
        self._do("press")

    def look(self, direction: Literal["up", "down"]) -> None:
        """Raises or lowers the head."""
        self._do(f"look_{direction}")
        self._undone_by("look", {"action": "look_down"} if direction == "up" else None)

    def wear(self, on: bool = True) -> None:
        """Puts the glasses on or takes them off."""
        self._do("wear", value=on)
        self._undone_by("wear", None if on else {"action": "wear", "value": True})

    def battery(self, percent: int) -> None:
        """Sets the charge that the glasses report."""
        self._do("battery", value=percent)

    def say(self, words: str, *, within: float = WITHIN) -> None:
        """Speaks. The microphone is on once an app listens: that may take up to `within`."""
        self._speak(lambda: self._api.input({"action": "say", "text": words}), within)

    def play(self, wav: str | os.PathLike[str], *, within: float = WITHIN) -> None:
        """Plays a WAV file into the microphone, through codec and Bluetooth."""
        sound = Path(wav).read_bytes()
        self._speak(lambda: self._api.sound(Path(wav).name, sound), within)

    def drop(self, side: Side | None = None, *, seconds: float = 0.0) -> None:
        """Breaks the radio link of one arm or both, for a while."""
        self._do("drop", side=side, **({"for": seconds} if seconds else {}))

    def lag(self, seconds: float, side: Side | None = None) -> None:
        """Delays everything on the radio link; 0 ends it."""
        self._do("lag", ms=round(seconds * 1000), side=side)
        self._undone_by("lag", {"action": "lag", "ms": 0} if seconds else None)

    def wait_connected(self, *, within: float = START_MAX) -> None:
        """Waits until every arm is connected and the cloud knows the glasses."""
        if not _until(self._api.connected, within):
            raise GlassbridgeError(
                f"the glasses were not connected within {within:g} s: look at `glassbridge events`"
            )

    @contextmanager
    def app(
        self,
        command: Sequence[str] | None = None,
        *,
        url: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        within: float = START_MAX,
    ) -> Iterator[RunningApp]:
        """Starts an app on these glasses, and stops it at the end of the block.

        `command` runs an app server that reads its port from PORT; `url` names one that runs already (with both, the
        command is run and is expected there). Raises GlassbridgeError with the app's output when it does not start.
        """
        if command is None and url is None:
            raise ValueError("glasses.app() needs a command to run, or the url of an app server that runs")
        port = _free_port() if url is None else None
        app = RunningApp(self._api, url or f"http://127.0.0.1:{port}", command, cwd, dict(env or {}), port)
        try:
            app.start(within=within)
            yield app
        finally:
            app.stop()

    def undo(self) -> None:
        """Puts back what `look`, `wear` and `lag` changed."""
        for body in self._undo.values():
            self._api.input(body)
        self._undo.clear()

    def _do(self, action: str, **fields: Any) -> None:
        body = {key: value for key, value in fields.items() if value is not None}
        _taken(self._api.input({"action": action, **body}))

    def _undone_by(self, what: str, body: dict[str, Any] | None) -> None:
        if body is None:
            self._undo.pop(what, None)
        else:
            self._undo[what] = body

    def _speak(self, attempt: Callable[[], httpx.Response], within: float) -> None:
        reply = attempt()
        end = time.monotonic() + within
        while (
            reply.status_code == 409 and time.monotonic() < end
        ):  # the microphone is off: nobody listens yet
            time.sleep(LOOK)
            reply = attempt()
        _taken(reply)


class RunningApp:
    """An app server on the glasses; may be killed and started again."""

    def __init__(
        self,
        api: _Api,
        url: str,
        command: Sequence[str] | None,
        cwd: str | os.PathLike[str] | None,
        env: dict[str, str],
        port: int | None,
    ) -> None:
        self.url = url
        self.package = ""  # known once it has answered
        self._api = api
        self._command = command
        self._cwd = cwd
        self._env = {**os.environ, **env} | ({"PORT": str(port)} if port else {})
        self._program: _Program | None = None

    @property
    def output(self) -> str:
        """The last lines that the app's process printed."""
        return self._program.output if self._program is not None else ""

    def start(self, *, within: float = START_MAX) -> None:
        """Runs the app server, waits for its `/health`, registers it and starts it for the wearer."""
        self._run()
        self.package = self._wait_health(within)
        self._api.start_app(self.package, self.url, self.output)

    def kill(self) -> None:
        """kill -9, as a crash or an editor's reload does it. The cloud is not told."""
        if self._program is not None:
            self._program.kill()
            self._program = None

    def restart(self, *, within: float = START_MAX) -> None:
        """Runs a killed app server again; the cloud brings the app back by itself."""
        self._run()
        self._wait_health(within)

    def stop(self) -> None:
        """Stops the app for the wearer, then its process."""
        if self.package:
            self._api.stop_app(self.package)
        if self._program is not None:
            self._program.end()
            self._program = None

    def _run(self) -> None:
        if self._command is not None:
            self._program = _Program(self._command, self._cwd, self._env)

    def _wait_health(self, within: float) -> str:
        found: list[str] = []

        def healthy() -> bool:
            if self._program is not None and self._program.code is not None:
                return True
            package = self._api.health(self.url)
            found.extend([package] if package else [])
            return bool(found)

        if _until(healthy, within) and found:
            return found[0]
        code = self._program.code if self._program is not None else None
        ended = f"its process ended with code {code}" if code is not None else f"not within {within:g} s"
        raise GlassbridgeError(
            f"the app did not answer {self.url}/health with an `app` field: {ended}.\n"
            f"It must listen on the port in PORT.\n{self.output}"
        )


# -- the fixtures -------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("glassbridge")
    group.addoption(
        "--glassbridge-url", metavar="URL", default=None, help="use the running `glassbridge dev` at URL"
    )
    group.addoption(
        "--glassbridge-model", metavar="MODEL", default="g1", help="which glasses to simulate (g1)"
    )


@pytest.fixture(scope="session")
def glassbridge_dev(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The running `glassbridge dev`: one for the whole run."""
    from glassbridge.target import find

    url = request.config.getoption("--glassbridge-url", None)
    if url is not None:
        yield find(url)
        return
    model = request.config.getoption("--glassbridge-model", "g1")
    with (
        tempfile.TemporaryDirectory(prefix="glassbridge-test-") as folder,
        _dev(Path(folder), str(model)) as target,
    ):
        yield target


@contextmanager
def simulated(model: str = "g1") -> Iterator[tuple[Glasses, Lens]]:
    """Connected glasses of this model and their lens, for one test that needs others than the rest, or for a script."""
    with (
        tempfile.TemporaryDirectory(prefix="glassbridge-test-") as folder,
        _dev(Path(folder), model) as target,
        _api(target) as api,
    ):
        worn = Glasses(api)
        worn.wait_connected()
        yield worn, Lens(api)


@pytest.fixture
def glasses(glassbridge_dev: Target) -> Iterator[Glasses]:
    """Connected glasses on the test's head."""
    with _api(glassbridge_dev) as api:
        worn = Glasses(api)
        worn.wait_connected()
        yield worn
        worn.undo()


@pytest.fixture
def lens(glassbridge_dev: Target) -> Iterator[Lens]:
    """What these glasses show."""
    with _api(glassbridge_dev) as api:
        yield Lens(api)


# -- inside -------------------------------------------------------------------------------------------------


class _Api:
    """Requests to `dev`, in the words of this file."""

    def __init__(self, http: httpx.Client, user: str) -> None:
        self._http = http
        self._user = quote(user, safe="")

    def get(self, path: str, **query: str) -> httpx.Response:
        return self._http.get(path, params=query).raise_for_status()

    def device(self) -> dict[str, Any]:
        first: dict[str, Any] = self.get("/api/sim/state").json()["devices"][0]
        return first

    def input(self, body: Mapping[str, Any]) -> httpx.Response:
        return self._http.post("/api/sim/input", json=body)

    def sound(self, name: str, data: bytes) -> httpx.Response:
        return self._http.post("/api/sim/input", files={"wav": (name, data, "audio/wav")})

    def connected(self) -> bool:
        if not all(arm["state"] == "connected" for arm in self.device()["arms"].values()):
            return False
        reply = self._http.get(f"/api/admin/sessions/{self._user}")
        session = reply.json() if reply.is_success else {}
        return bool(session.get("connected") and session.get("model_name"))

    def health(self, url: str) -> str | None:
        import httpx

        try:
            body = self._http.get(f"{url}/health").json()
        except (httpx.HTTPError, ValueError):
            return None
        package = body.get("app") if isinstance(body, dict) else None
        return package if isinstance(package, str) else None

    def start_app(self, package: str, url: str, output: str) -> None:
        record = {
            "packageName": package,
            "publicUrl": url,
            "permissions": [{"type": "ALL"}],
            "appType": "background",
            "installFor": "all",
        }
        for path, body in (
            ("/api/admin/apps", record),
            (f"/api/admin/sessions/{self._user}/apps/{quote(package, safe='')}/start", None),
        ):
            reply = self._http.post(path, json=body)
            if not reply.is_success:
                raise GlassbridgeError(f"{package} was not started: {reply.text}\n{output}")

    def stop_app(self, package: str) -> None:
        self._http.post(f"/api/admin/sessions/{self._user}/apps/{quote(package, safe='')}/stop")


@contextmanager
def _api(target: Target) -> Iterator[_Api]:
    from glassbridge.dev import USER
    from glassbridge.target import client

    with client(target, timeout=30.0) as http:
        yield _Api(http, target.user or USER)


@contextmanager
def _dev(folder: Path, model: str) -> Iterator[Target]:
    """Starts `glassbridge dev` on free ports, unseen by other commands of this user."""
    import orjson

    from glassbridge.target import Target

    command = [
        sys.executable,
        "-m",
        "glassbridge",
        "dev",
        "--json",
        "--port",
        "0",
        "--no-clock",
        "--no-discover",  # an app that its author runs meanwhile is not the one under test
        "--model",
        model,
    ]
    program = _Program(command, folder, {**os.environ, "XDG_RUNTIME_DIR": str(folder)})
    try:
        if not _until(lambda: program.code is not None or program.line('"ready"') is not None, START_MAX):
            raise GlassbridgeError(
                f"`glassbridge dev` was not ready within {START_MAX:g} s\n{program.output}"
            )
        line = program.line('"ready"')
        if line is None:
            raise GlassbridgeError(f"`glassbridge dev` ended with code {program.code}\n{program.output}")
        ready = orjson.loads(line)
        yield Target(ready["url"], None, ready["user"])
    finally:
        program.end()


class _Program:
    """A child process whose output is kept, shortened to its last lines."""

    def __init__(
        self, command: Sequence[str], cwd: str | os.PathLike[str] | None, env: Mapping[str, str]
    ) -> None:
        try:
            self._process = subprocess.Popen(
                list(command), cwd=cwd, env=dict(env), text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,  # `npm run` starts children of its own; all are ended together
            )  # fmt: skip
        except OSError as error:
            raise GlassbridgeError(f"{command[0]} was not run: {error.strerror or error}") from None
        self._first: deque[str] = deque(maxlen=1)
        self._lines: deque[str] = deque(maxlen=OUTPUT_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if '"ready"' in line and not self._first:
                self._first.append(line)
            self._lines.append(line)

    @property
    def code(self) -> int | None:
        return self._process.poll()

    @property
    def output(self) -> str:
        return "".join(tuple(self._lines))

    def line(self, part: str) -> str | None:
        """The line that said that it is ready."""
        return next((line for line in self._first if part in line), None)

    def kill(self) -> None:
        self._signal(9)
        self._finish()

    def end(self) -> None:
        """SIGTERM, and SIGKILL for who does not listen."""
        self._signal(15)
        try:
            self._process.wait(STOP_MAX)
        except subprocess.TimeoutExpired:
            self._signal(9)
        self._finish()

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                pass  # it ended between the question and the signal

    def _finish(self) -> None:
        self._process.wait()
        self._reader.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _taken(reply: httpx.Response) -> None:
    if reply.is_success:
        return
    body = reply.json() if "json" in reply.headers.get("content-type", "") else {}
    raise GlassbridgeError(
        f"the glasses did not take it: {body.get('error') or reply.text} {body.get('fix', '')}"
    )


def _until(probe: Callable[[], bool], within: float) -> bool:
    import httpx

    end = time.monotonic() + within
    while True:
        try:
            if probe():
                return True
        except (httpx.HTTPError, KeyError):  # a part of `dev` is being restarted
            pass
        if time.monotonic() > end:
            return False
        time.sleep(LOOK)


def _free_port() -> int:
    """A loopback port that nobody holds now: an app server cannot tell us which one it got for port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
