"""A systemd unit for the edge or the cloud: its text, where it belongs, how it is removed and where its log is.

Rules: the unit is shown before it is written; nothing is started without being asked. Both programs end cleanly on
SIGTERM; the edge tells systemd when it is ready and feeds its watchdog. A service of the whole machine runs as a user of
its own, who reads nobody's home: its token is handed over by systemd.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["edge", "cloud"]

#: What StateDirectory=glassbridge makes, and where root's `glassbridge pair` remembers glasses as well.
SYSTEM_STATE = Path("/var/lib/glassbridge")
_ABOUT = {"edge": "Glassbridge edge: smart glasses over Bluetooth", "cloud": "Glassbridge cloud"}


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit file."""

    name: str
    path: Path
    text: str
    start: str  # the command that starts it now and at every boot


def unit_name(role: Role) -> str:
    return f"glassbridge-{role}.service"


def unit_path(role: Role, *, for_user: bool) -> Path:
    return _folder(for_user) / unit_name(role)


def make(
    role: Role,
    arguments: list[str],
    *,
    for_user: bool,
    data_dir: Path | None = None,
    token_file: Path | None = None,
) -> Unit:
    """The unit that runs `glassbridge ROLE run ARGUMENTS`, for this user or for the whole system."""
    name = unit_name(role)
    command = " ".join(map(_quoted, [*_program(), role, "run", *arguments]))
    credentials = []
    if token_file is not None and for_user:
        command += f" --token-file {_quoted(str(token_file))}"
    elif token_file is not None:
        # Read by systemd at each start, as root; %d is the folder where the service finds it.
        command += " --token-file %d/token"
        credentials = [f"LoadCredential=token:{_quoted(str(token_file))}"]
    if data_dir is None and not for_user:
        data_dir = SYSTEM_STATE  # the service's user has no home to keep it in
    state = [] if data_dir is None else [f"Environment={_quoted(f'GLASSBRIDGE_DATA_DIR={data_dir}')}"]
    hardening = (
        []
        if for_user
        else [
            "DynamicUser=yes",
            *_groups(role),
            "StateDirectory=glassbridge",
            "ProtectSystem=strict",
            # Not "yes": Glassbridge itself may be installed below somebody's home.
            "ProtectHome=read-only",
            "PrivateTmp=yes",
        ]
    )
    notify = ["Type=notify", "WatchdogSec=60"] if role == "edge" else ["Type=exec"]
    lines = [
        "[Unit]",
        f"Description={_ABOUT[role]}",
        "After=network-online.target" + (" bluetooth.target" if role == "edge" and not for_user else ""),
        "Wants=network-online.target",
        "",
        "[Service]",
        *notify,
        f"ExecStart={command}",
        *state,
        *credentials,
        "Restart=always",
        "RestartSec=2",
        # The programs drain within 10 s of SIGTERM.
        "TimeoutStopSec=15",
        "NoNewPrivileges=yes",
        *hardening,
        "",
        "[Install]",
        f"WantedBy={'default.target' if for_user else 'multi-user.target'}",
        "",
    ]
    scope = "systemctl --user" if for_user else "sudo systemctl"
    # Services of a user end with that user's last session, on a Pi without a screen too, unless he lingers.
    linger = " && loginctl enable-linger" if for_user else ""
    return Unit(
        name,
        unit_path(role, for_user=for_user),
        "\n".join(lines),
        f"{scope} daemon-reload && {scope} enable --now {name}{linger}",
    )


def _groups(role: Role) -> list[str]:
    """Debian lets the members of a group use Bluetooth; elsewhere everybody may, and the group does not exist."""
    if role != "edge":
        return []
    try:
        import grp  # not on Windows

        grp.getgrnam("bluetooth")
    except (ImportError, KeyError):
        return []
    return ["SupplementaryGroups=bluetooth"]


def _folder(for_user: bool) -> Path:
    if not for_user:
        return Path("/etc/systemd/system")
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "systemd" / "user"


def _program() -> list[str]:
    """How to start this very installation."""
    script = Path(sys.executable).with_name("glassbridge")
    if script.exists():
        return [str(script)]
    found = shutil.which("glassbridge")
    return [found] if found else [sys.executable, "-m", "glassbridge"]


def _quoted(word: str) -> str:
    """One word of a unit file: systemd's quoting, and its percent signs doubled."""
    word = word.replace("%", "%%")
    if word and not any(character in word for character in " \t\"'\\$;"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'
