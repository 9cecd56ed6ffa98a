"""Which running Glassbridge a command talks to, and with which credential.

Rules: `--url` beats GLASSBRIDGE_URL beats a running `glassbridge dev` beats the default listener. What `dev` leaves for
other commands is one private file, removed when it ends; a file whose process is gone counts for nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from glassbridge.output import CommandError, Exit

DEFAULT_URL = "http://127.0.0.1:8002"

#: Commands talk over loopback or a LAN; an input is answered within milliseconds. Seconds.
TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """A running cloud with its simulator, as far as we know it."""

    url: str
    admin_token: str | None
    user: str | None
    pid: int | None = None


def _runtime_file() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base is None:
        # Windows has no user ids, and its folder for temporary files is the user's own.
        whose = "" if sys.platform == "win32" else f"-{os.getuid()}"
        base = f"{tempfile.gettempdir()}/glassbridge{whose}"
    return Path(base) / "glassbridge-dev.json"


@contextmanager
def announced(target: Target) -> Iterator[None]:
    """Leaves the target for other commands of this user, for as long as the block runs."""
    path = _runtime_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(orjson.dumps(asdict(target)))
    temporary.replace(path)
    try:
        yield
    finally:
        running = _read(path)
        # A second `dev` may have taken over meanwhile: its file is not ours to remove.
        if running is not None and running.pid == target.pid:
            path.unlink(missing_ok=True)


def running_dev() -> Target | None:
    """The `glassbridge dev` of this user, if one runs."""
    if sys.platform == "win32":
        return None  # its parts talk over UNIX sockets; and `os.kill` would end the process instead of asking after it
    target = _read(_runtime_file())
    if target is None or target.pid is None:
        return None
    try:
        os.kill(target.pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return None  # somebody else's process has that number now
    return target


def _read(path: Path) -> Target | None:
    with suppress(OSError, orjson.JSONDecodeError, TypeError):
        if sys.platform == "win32" or path.stat().st_uid == os.getuid():
            return Target(**orjson.loads(path.read_bytes()))
    return None


def find(url: str | None) -> Target:
    """The target of this command."""
    dev = running_dev()
    chosen = url or os.environ.get("GLASSBRIDGE_URL")
    if chosen is None:
        return dev or Target(DEFAULT_URL, os.environ.get("GLASSBRIDGE_ADMIN_TOKEN"), None)
    chosen = chosen.rstrip("/")
    token = os.environ.get("GLASSBRIDGE_ADMIN_TOKEN")
    if dev is not None and dev.url == chosen:
        return Target(chosen, token or dev.admin_token, dev.user)
    return Target(chosen, token, None)


def client(target: Target, *, timeout: float | None = TIMEOUT) -> httpx.Client:
    """An HTTP client for the target; the administrator's token goes along where there is one."""
    return httpx.Client(base_url=target.url, headers=_headers(target), timeout=timeout, trust_env=False)


def async_client(target: Target, *, timeout: float | None = TIMEOUT) -> httpx.AsyncClient:
    """The same for commands that run until they are interrupted."""
    return httpx.AsyncClient(base_url=target.url, headers=_headers(target), timeout=timeout, trust_env=False)


def _headers(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.admin_token}"} if target.admin_token else {}


@contextmanager
def told(target: Target) -> Iterator[None]:
    """A failure to reach the target inside the block becomes a CommandError (69)."""
    try:
        yield
    except httpx.HTTPError as error:
        raise CommandError(
            f"nothing answers at {target.url}",
            _reason(error),
            "glassbridge dev   (or name the place with --url)",
            Exit.UNREACHABLE,
        ) from None


def request(target: Target, method: str, path: str, **options: Any) -> httpx.Response:
    """One request. Raises CommandError (69) when nobody answers, (1 or 77) when the answer is a refusal."""
    with told(target), client(target, timeout=options.pop("timeout", TIMEOUT)) as http:
        reply = http.request(method, path, **options)
    if not reply.is_success:
        raise refusal(reply)
    return reply


def refusal(reply: httpx.Response) -> CommandError:
    """A refused request as an error in three parts."""
    try:
        body = reply.json()
    except ValueError:
        body = {}
    detail = body.get("error") if isinstance(body, dict) else None
    if isinstance(detail, dict):
        detail = detail.get("message")
    why = str(detail or (body.get("message") if isinstance(body, dict) else "") or reply.reason_phrase)
    fix = str(body.get("fix", "")) if isinstance(body, dict) else ""
    if reply.status_code in (401, 403):
        fix = fix or "set GLASSBRIDGE_ADMIN_TOKEN to the token that `glassbridge cloud init` showed"
        return CommandError(f"{reply.request.url.path} was refused", why, fix, Exit.PERMISSION)
    what = f"{reply.request.url.path} was not done (HTTP {reply.status_code})"
    return CommandError(what, why, fix or "glassbridge dev --help")


def _reason(error: httpx.HTTPError) -> str:
    match error:
        case httpx.ConnectError():
            return "the connection was refused: it is not running, or listens elsewhere"
        case httpx.TimeoutException():
            return f"no answer within {TIMEOUT:.0f} s"
        case _:
            return str(error) or type(error).__name__
