"""The whole set as a developer starts it: three real processes, real sockets, Bluetooth bytes between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from glassbridge.dev import Dev, Options
from glassbridge.scenario import words_of
from tests.support.dev_process import STOP_MAX, DevProcess, dev_process, start_dev
from tests.support.waiting import SLOW

ROOT = Path(__file__).resolve().parents[2]


def wait_for(probe: Callable[[], bool], what: str, within: float = 15.0) -> None:
    end = time.monotonic() + within * SLOW
    while not probe():
        assert time.monotonic() < end, f"not within {within * SLOW:g} s: {what}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def shown(dev: DevProcess) -> list[str]:
    try:
        return [words_of(arm["lens"]["text"]) for arm in dev.device()["arms"].values()]
    except (httpx.HTTPError, KeyError):  # the cloud or the simulator is being restarted
        return []


def test_the_demo_scenario_passes_and_writes_the_picture(tmp_path: Path) -> None:
    process = start_dev("--once", str(ROOT / "examples" / "demo.toml"), "--json", folder=tmp_path)
    out, err = process.communicate(timeout=200)
    result = json.loads(out)
    assert (process.returncode, result["ok"]) == (0, True), err
    assert len(result["steps"]) == 12
    assert (tmp_path / "lens.png").read_bytes().startswith(b"\x89PNG")


def test_a_scenario_that_fails_exits_1_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[[step]]\nlens = 'words that nobody said'\nwithin = '1s'\n")
    process = start_dev("--once", str(path), "--json", folder=tmp_path)
    out, err = process.communicate(timeout=200)
    result = json.loads(out)
    assert (process.returncode, result["ok"]) == (1, False)
    assert "step 1: the lenses should show 'words that nobody said'" in result["reason"]
    assert "FAILED" in err


def test_a_child_that_dies_comes_back_and_the_lens_with_it(tmp_path: Path) -> None:
    with dev_process(tmp_path, "--no-discover") as dev:
        children = dev.children()
        assert len(children) == 3
        for number, victim in enumerate(children, 1):
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: sum("starting it again" in line for line in dev.errors) >= number, "it is said")  # noqa: B023
            wait_for(lambda: len(dev.children()) == 3, "there are three again")
        wait_for(
            lambda: len(set(shown(dev))) == 1 and "battery" in shown(dev)[0], "the lens is lit", within=30
        )
        kept = dev.children()
        folder = next(Path(part) for part in _arguments(kept[0]) if "glassbridge-" in part).parent
    assert not any(map(alive, kept))
    assert not folder.exists(), "the private folder with keys and sockets is gone"


def test_an_event_is_sent_again_from_the_command_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "glassbridge", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        )

    with dev_process(tmp_path, "--no-discover") as dev:
        wait_for(lambda: any("battery" in text for text in shown(dev)), "the lens is lit", within=30)
        run("tap", "right").check_returncode()
        wait_for(lambda: any("touches: 1" in text for text in shown(dev)), "the tap has arrived")
        taps = [
            json.loads(line) for line in run("events", "--kind", "from_glasses", "--json").stdout.splitlines()
        ]
        [tap] = [event for event in taps if event["about"] == "touch_event"]
        again = run("events", "replay", str(tap["seq"]))
        assert again.stdout.strip() == f"event {tap['seq']} was sent again"
        wait_for(lambda: any("touches: 2" in text for text in shown(dev)), "it has arrived twice")
        gone = run("events", "replay", "999999")
        assert (gone.returncode, "cannot be sent again" in gone.stderr) == (1, True)


def test_the_built_in_clock_leaves_the_lens_to_the_developers_app(tmp_path: Path) -> None:
    """Both would answer every word and tap, and whoever is first keeps the screen."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with dev_process(tmp_path, "--no-discover", "--app", f"http://127.0.0.1:{port}") as dev:
        wait_for(lambda: any("battery" in text for text in shown(dev)), "the clock's face", within=30)
        with subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "captions.py")],
            env={**os.environ, "PORT": str(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as app:  # fmt: skip
            try:
                wait_for(lambda: shown(dev) == ["Listening ..."] * 2, "the app alone", within=30)
                httpx.post(
                    f"{dev.url}/api/sim/input",
                    json={"action": "say", "text": "where is the station"},
                    headers={"Origin": dev.url},
                    trust_env=False,
                ).raise_for_status()
                wait_for(lambda: shown(dev) == ["where is the station"] * 2, "the app answers", within=30)
            finally:
                app.terminate()
    assert any(
        "clock" in line and "glassbridge app start org.glassbridge.clock" in line for line in dev.errors
    )


@pytest.mark.parametrize(
    ("connected_for", "asked", "already"),
    [
        (None, ["POST apps", "POST start"], False),
        (0.5, ["POST apps"], True),  # it has just been started, and its counter lags
        (30.0, ["POST apps", "POST stop", "POST start"], False),
    ],
)
async def test_an_app_that_was_loaded_anew_inside_its_process_is_stopped_and_started(
    connected_for: float | None, asked: list[str], already: bool, tmp_path: Path
) -> None:
    """`bun --hot`: the server has forgotten its session, whose connection the old code still holds."""
    requests: list[str] = []
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            requests.append(f"POST {request.url.path.rpartition('/')[2]}")
            bodies.append(json.loads(request.content) if request.content else {})
            return httpx.Response(200, json={"ok": True})
        if "/sessions/" in request.url.path:
            state = "disconnected" if connected_for is None else "connected"
            app = {"package_name": "com.example.captions", "state": state, "since": connected_for or 99.0}
            return httpx.Response(200, json={"apps": [app]})
        kept = {
            "packageName": "com.example.captions",
            "settings": [{"key": "big"}],
            "publicUrl": "http://old",
        }
        return httpx.Response(200, json={"app": kept})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        dev = Dev(Options(), tmp_path, "admin", "core", http, url="http://127.0.0.1:1")
        outcome = await dev.start_app("com.example.captions", "http://127.0.0.1:3000")
    assert (outcome.ok, outcome.already) == (True, already)
    assert requests == asked
    assert bodies[0]["settings"] == [{"key": "big"}], "what was imported stays"
    assert bodies[0]["publicUrl"] == "http://127.0.0.1:3000"


def _arguments(pid: int) -> list[str]:
    raw = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return [word.removeprefix("unix-server:") for word in raw]


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_no_child_is_left_behind(tmp_path: Path, blow: signal.Signals) -> None:
    process = start_dev("--json", folder=tmp_path)
    assert process.stdout is not None
    try:
        json.loads(process.stdout.readline())
        children = DevProcess(process).children()
        assert len(children) == 3
        process.send_signal(blow)
        code = process.wait(STOP_MAX)
        assert code == (130 if blow is signal.SIGINT else -9)
        wait_for(lambda: not any(map(alive, children)), "all children have ended")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_taken_port_is_named_with_the_cure(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        process = start_dev("--port", str(port), folder=tmp_path)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (78, "")
    assert f"port {port}" in err
    assert "fix: glassbridge dev --port 0" in err


def test_other_commands_find_the_running_dev(tmp_path: Path) -> None:
    with dev_process(tmp_path, "--no-discover") as dev:
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

        def command(*words: str) -> str:
            arguments = [os.fspath(ROOT / ".venv" / "bin" / "glassbridge"), *words]
            if not Path(arguments[0]).exists():
                arguments[0] = "glassbridge"
            return subprocess.run(
                arguments, env=environment, check=True, capture_output=True, text=True, timeout=60
            ).stdout

        assert command("tap", "left") == "tap left\n"
        wait_for(lambda: "touches: 1" in shown(dev)[0], "the tap has arrived")
        assert (
            json.loads(command("app", "list", "--json"))["apps"][0]["packageName"] == "org.glassbridge.clock"
        )
        assert command("user", "list") == "dev@glassbridge.local\n"
        template = tmp_path / "app_config.json"  # as MentraOS' console takes it: without a name
        template.write_text(
            '{"settings": [{"type": "toggle", "key": "big", "label": "Big", "defaultValue": true}]}'
        )
        with pytest.raises(subprocess.CalledProcessError) as refused:
            command("app", "import", str(template))
        assert "--package NAME" in refused.value.stderr
        command("app", "import", str(template), "--package", "org.glassbridge.clock")
        exported = json.loads(command("app", "export", "org.glassbridge.clock"))
        assert [setting["key"] for setting in exported["settings"]] == ["big"]
        assert exported["permissions"][0]["type"] == "ALL", "what the file does not say stays"
        command("app", "stop", "org.glassbridge.clock")
        wait_for(lambda: shown(dev) == ["", ""], "the stopped app has left the lens")
