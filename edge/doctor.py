"""Why it does not work: adapter, BlueZ, permissions, glasses, token, cloud. One finding, one command that fixes it.

Rules: looks, never changes anything. Every check has a limit and stands alone: one that fails does not hide the next.
No token and no address of a person appears in a finding.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import platform
import re
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import httpx
import orjson

from edge import control
from edge.ble import BleakRadio
from edge.config import EdgeConfig, Wearer
from edge.pairing import scan
from edge.profiles.base import Advert
from edge.uplink_socket import DialRefused, UplinkSocket
from wire.errors import ConfigError, GlassesError, GlassesFault, UplinkError

RFKILL = Path("/sys/class/rfkill")
HTTP_MAX = 5.0  # s
SCAN_SECONDS = 6.0
#: A token that ends within a day will end during the next one's use.
TOKEN_SOON = 24 * 3600

#: Kernels that were seen to break Bluetooth, and how. 6.1.192 is Debian 12's; its 6.12 does not (docs/ble-lanes.md).
BAD_KERNELS = {
    "6.1.192": "its Bluetooth (L2CAP) has a fault that kills bluetoothd when a connection attempt fails",
}

#: What a fault means to a person; `docs/troubleshooting.md` has the longer story.
FAULT_WORDS = {
    GlassesFault.ADAPTER_MISSING: "there is no Bluetooth adapter, or the Bluetooth service does not run",
    GlassesFault.ADAPTER_DOWN: "the Bluetooth adapter is switched off",
    GlassesFault.ADAPTER_QUIET: "the Bluetooth adapter hears no device at all",
    GlassesFault.PERMISSION: "this user may not use Bluetooth",
    GlassesFault.NOT_FOUND: "they do not advertise: in the closed case, out of range, or held by a phone",
    GlassesFault.CONNECT_FAILED: "no connection came about: too far away, or held by a phone",
    GlassesFault.LINK_LOST: "the connection was lost",
    GlassesFault.TIMEOUT: "they did not answer in time",
    GlassesFault.REFUSED: "they refused what they were asked",
    GlassesFault.NOT_PAIRED: "they refused to pair: they hold a bond with another host, or this host with older ones",
    GlassesFault.BUSY: "the Bluetooth adapter is busy or has no free connection",
    GlassesFault.INCOMPATIBLE: "they lack a service that every firmware that we know has",
    GlassesFault.PROTOCOL: "they are connected, but their firmware does not answer",
}


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, but not as well as it could
    ERROR = "error"  # does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `code` is the exit code of a doctor that found nothing worse."""

    level: Level
    what: str
    why: str = ""
    fix: str = ""
    code: int = 0


def ok(what: str, why: str = "") -> Finding:
    return Finding(Level.OK, what, why)


def error(what: str, why: str, fix: str, code: int = 69) -> Finding:
    return Finding(Level.ERROR, what, why, fix, code)


def warning(what: str, why: str, fix: str) -> Finding:
    return Finding(Level.WARNING, what, why, fix)


async def examine(
    config: EdgeConfig, on_progress: Callable[[str], None] = lambda _: None, rfkill: Path = RFKILL
) -> list[Finding]:
    """Everything, in the order in which it is needed."""
    findings = check_data_dir(config.data_dir)
    running = await asyncio.to_thread(check_daemon, config.socket_path)
    findings += running
    well = True
    if config.radio == "default" and sys.platform == "linux":
        on_progress("Bluetooth service")
        bluetooth = check_kernel() + check_rfkill(rfkill) + await check_bluez()
        well = all(finding.level is not Level.ERROR for finding in bluetooth)
        findings += bluetooth
    if running:
        pass  # its glasses do not advertise, and it says more about the radio than a second scan could
    elif well:  # without a Bluetooth service the adapter would only be blamed for it
        on_progress(f"Bluetooth adapter and glasses, {SCAN_SECONDS:.0f} s")
        findings += await check_radio(config.radio)
    for wearer in config.everyone:
        on_progress("cloud")
        findings += check_token(wearer)
        findings += await check_cloud(wearer)
    return findings


def worst(findings: list[Finding]) -> int:
    """The exit code: that of the first error."""
    return next((finding.code for finding in findings if finding.level is Level.ERROR), 0)


def check_data_dir(directory: Path) -> list[Finding]:
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return [
            error(
                f"{directory} cannot be written",
                "paired glasses could not be remembered",
                f"sudo chown $USER {existing}   (or set --data-dir)",
                77,
            )
        ]
    return [ok("state directory", str(directory))]


def check_daemon(socket_path: Path) -> list[Finding]:
    """What a daemon that runs already says of itself; nothing if there is none."""
    try:
        status = control.ask(socket_path, {"cmd": "status"})["status"]
    except (OSError, KeyError):
        return []
    findings = [ok("edge daemon", f"runs, process {status['pid']}")]
    fault = status["radio"]["fault"]
    if fault:
        findings.append(
            error(
                "the daemon cannot use Bluetooth",
                FAULT_WORDS[GlassesFault(fault)],
                "sudo systemctl restart bluetooth   (or switch the adapter off and on)",
            )
        )
    for wearer in status["wearers"]:
        glasses, cloud = wearer["glasses"], wearer["cloud"]
        who = f"{wearer['user']}: " if wearer["user"] else ""
        away = [arm for arm, facts in glasses["arms"].items() if facts["state"] != "ready"]
        if away:
            reasons = {facts["reason"] for facts in glasses["arms"].values() if facts["reason"]}
            words = "; ".join(FAULT_WORDS[GlassesFault(reason)] for reason in sorted(reasons))
            findings.append(
                warning(
                    f"{who}{glasses['model']}: {' and '.join(away)} not connected",
                    words or "looked for",
                    "Open the case beside this machine; disconnect them in the phone's app",
                )
            )
        else:
            findings.append(ok(f"{who}{glasses['model']}", glasses["state"]))
        if cloud["state"] != "online":
            findings.append(
                warning(f"{who}the daemon has no cloud", cloud["reason"] or cloud["state"], "See below")
            )
    return findings


def check_kernel(told: str | None = None) -> list[Finding]:
    """Whether this kernel is known to break Bluetooth. `told` is its release and version, if not this machine's.

    The release of Debian's kernels stops at 6.1.0; the version behind it names the exact one.
    """
    told = f"{platform.release()} {platform.version()}" if told is None else told
    return [
        warning(
            f"Linux {version} breaks Bluetooth",
            why,
            'sudo apt install -t bookworm-backports "linux-image-$(dpkg --print-architecture)"   (then reboot)',
        )
        for version, why in BAD_KERNELS.items()
        if re.search(rf"(?<![\w.]){re.escape(version)}(?![\d.])", told)
    ]


def check_rfkill(root: Path) -> list[Finding]:
    """Switches that turn the radio off (the kernel's rfkill)."""
    findings: list[Finding] = []
    for switch in sorted(root.glob("*")) if root.exists() else []:
        with contextlib.suppress(OSError):
            if (switch / "type").read_text().strip() != "bluetooth":
                continue
            if (switch / "hard").read_text().strip() == "1":
                findings.append(
                    error(
                        "Bluetooth is switched off in hardware",
                        "a switch or key on the case",
                        "Turn that switch on",
                    )
                )
            elif (switch / "soft").read_text().strip() == "1":
                findings.append(
                    error("Bluetooth is blocked", "rfkill (flight mode)", "rfkill unblock bluetooth")
                )
    return findings


async def check_bluez() -> list[Finding]:
    """bluetoothd and its adapters, over D-Bus."""
    from dbus_fast import BusType, DBusError
    from dbus_fast.aio import MessageBus

    from edge.bluez_host import CALL_MAX, adapters

    try:
        async with asyncio.timeout(CALL_MAX):
            bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    except (OSError, EOFError, TimeoutError, ValueError) as problem:
        return [
            error(
                "no system D-Bus",
                f"the Bluetooth service cannot be reached without it ({type(problem).__name__})",
                "sudo apt install dbus && sudo systemctl start dbus",
            )
        ]
    try:
        known = await adapters(bus)
    except DBusError as problem:
        if "AccessDenied" in problem.type:
            return [
                error(
                    "no permission to use Bluetooth",
                    "the D-Bus policy refuses this user",
                    "sudo usermod -aG bluetooth $USER   (then log in again)",
                    77,
                )
            ]
        return [
            error("the Bluetooth service does not run", problem.type, "sudo systemctl enable --now bluetooth")
        ]
    except (OSError, EOFError, TimeoutError):
        return [
            error("the Bluetooth service does not answer", "time-out", "sudo systemctl restart bluetooth")
        ]
    finally:
        bus.disconnect()
    if not known:
        return [error("no Bluetooth adapter", "BlueZ knows none", "Plug one in, then: bluetoothctl list")]
    off = [path.rsplit("/", 1)[-1] for path, facts in known.items() if not facts.get("Powered")]
    if len(off) == len(known):
        return [error("the Bluetooth adapter is off", ", ".join(off), "bluetoothctl power on")]
    return [ok("Bluetooth service", f"{len(known)} adapter(s)")]


_RADIO_FIXES = {
    GlassesFault.PERMISSION: ("sudo usermod -aG bluetooth $USER   (then log in again)", 77),
    GlassesFault.ADAPTER_DOWN: ("bluetoothctl power on", 69),
}


async def check_radio(spec: str) -> list[Finding]:
    """Whether we can scan, and whether glasses are in sight."""
    try:
        radio = BleakRadio(spec)
    except ConfigError as problem:
        return [error(problem.what, problem.why, problem.fix, 78)]
    try:
        await radio.start()
    except GlassesError as problem:
        await radio.stop()
        fix, code = _RADIO_FIXES.get(
            problem.fault, ("Plug a Bluetooth adapter in, then: bluetoothctl list", 69)
        )
        return [error("no usable Bluetooth adapter", FAULT_WORDS[problem.fault], fix, code)]
    heard: set[str] = set()

    def hear(advert: Advert) -> None:
        heard.add(advert.address)

    radio.watch(hear)
    try:
        found = await scan(radio, SCAN_SECONDS)
    finally:
        radio.unwatch(hear)
        await radio.stop()
    if not heard:
        return [
            warning(
                "the Bluetooth adapter hears nothing at all",
                f"no device advertised for {SCAN_SECONDS:.0f} s: none is near, or the adapter hangs",
                "Switch a phone's Bluetooth on beside it; if it stays silent: sudo systemctl restart bluetooth",
            )
        ]
    findings = [ok("Bluetooth adapter", f"{spec}, {len(heard)} device(s) heard in {SCAN_SECONDS:.0f} s")]
    if not found:
        return [
            *findings,
            warning(
                "no glasses in sight",
                "in the closed case, out of range, connected to this edge already, or held by a phone",
                "Open the case beside this machine; disconnect them in the phone's app",
            ),
        ]
    return findings + [ok(pair.name, f"pair {pair.pair}, {len(pair.arms)} arm(s) in sight") for pair in found]


def check_token(wearer: Wearer) -> list[Finding]:
    """The credential, as far as it can be judged from outside."""
    try:
        token = wearer.read_token()
    except ConfigError as problem:
        return [error(problem.what, problem.why, problem.fix, 78)]
    if not token:
        return [
            error(
                "no token",
                "the cloud cannot know whose glasses these are",
                "glassbridge token new --user YOU",
                78,
            )
        ]
    findings: list[Finding] = []
    if wearer.token_file is not None and os.name == "posix":
        mode = stat.S_IMODE(wearer.token_file.stat().st_mode)
        if mode & 0o077:
            findings.append(
                warning("the token can be read by others", f"mode {mode:o}", f"chmod 600 {wearer.token_file}")
            )
    ends = _ends(token)
    if ends is not None and ends < time.time():
        return [*findings, error("the token has expired", "", "glassbridge token new --user YOU", 78)]
    if ends is not None and ends < time.time() + TOKEN_SOON:
        findings.append(warning("the token expires within a day", "", "glassbridge token new --user YOU"))
    return findings or [ok("token")]


def _ends(token: str) -> float | None:
    """`exp` of a JWT, unverified; None if it has none or is no JWT."""
    try:
        body = token.split(".")[1]
        claims = orjson.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        value = claims.get("exp")
    except (IndexError, ValueError, AttributeError):
        return None
    return float(value) if isinstance(value, (int, float)) else None


def _why(problem: httpx.HTTPError) -> str:
    """The words of the network's error, without the library's."""
    if isinstance(problem, httpx.TimeoutException):
        return f"no answer within {HTTP_MAX:.0f} s"
    words = str(problem) or type(problem).__name__
    return "nothing listens there" if words == "All connection attempts failed" else words


async def check_cloud(wearer: Wearer) -> list[Finding]:
    """Name, TCP, TLS, /health, and the upgrade with our token."""
    base = wearer.cloud.replace("ws", "http", 1).rsplit("/", 1)[0]
    started = time.monotonic()
    try:
        async with httpx.AsyncClient(timeout=HTTP_MAX) as client:
            health = await client.get(f"{base}/health")
    except httpx.HTTPError as problem:
        return [
            error(
                f"the cloud at {base} cannot be reached",
                _why(problem),
                f"curl -v {base}/health   (is it running? glassbridge cloud run)",
            )
        ]
    took = (time.monotonic() - started) * 1000
    if not health.is_success:
        return [
            error(
                f"the cloud at {base} is not well",
                f"/health answers HTTP {health.status_code}",
                f"curl {base}/readyz",
            )
        ]
    findings = [ok("cloud reachable", f"{base}, {took:.0f} ms")]
    try:
        token = wearer.read_token()
    except ConfigError:
        return findings  # told by check_token
    # A connection of the daemon that runs already would be replaced by ours, so only a refusal is provoked:
    # without a token the upgrade must be refused, and that proves the path through any proxy.
    socket = UplinkSocket(lambda: socket.close(1000, "doctor"), lambda _: None, lambda *_: None)
    try:
        async with asyncio.timeout(2 * HTTP_MAX):
            await socket.run(wearer.cloud, "")
    except DialRefused as refused:
        if refused.status in (401, 403):
            return [*findings, ok("WebSocket path", "upgrades arrive at the cloud")]
        return [
            *findings,
            error(
                "the WebSocket upgrade is refused",
                f"HTTP {refused.status}: a proxy in between does not pass upgrades",
                f"glassbridge cloud check {base}",
            ),
        ]
    except (UplinkError, TimeoutError) as problem:
        return [
            *findings,
            error("no WebSocket to the cloud", str(problem), f"glassbridge cloud check {base}"),
        ]
    return (
        findings
        if token
        else [*findings, warning("the cloud takes connections without a token", "", "Check it")]
    )
