"""One run of a command in the guest: QEMU from its first to its last instruction.

Rules of this file:

- The guest sees this host's files read-only and runs this host's Python; it has no network.
- It is emulated (TCG) unless KVM was asked for and works: a test run does not depend on a privilege.
- What the command prints is passed on as it comes; its exit code is ours. A guest that ends without one, or not in
  time, is an error.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware_sim.vm.image import Image, ImageError, build, newest_kernel

BUILD = Path("build/realbluez")
QEMU = "qemu-system-x86_64"
MEMORY = "2G"
"""A kernel with its page cache of the host's Python, and half a dozen Python processes of 60 MB."""

BOOT_MAX = 180.0
"""Seconds to the command: 7 to 20 under TCG on two cores, by ten for a busy machine."""


class MachineError(Exception):
    """The machine did not do what it is for: what, why and what would help."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds; `booted` is the guest's clock when the command began."""

    code: int
    booted: float
    total: float


def missing() -> str | None:
    """What this host lacks, with what would help, or None."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is missing. Debian: apt-get install --no-install-recommends qemu-system-x86"
    return None


def _show(said: bytes) -> None:
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()


def run(
    image: Image,
    command: Sequence[str],
    results: Path,
    *,
    environment: dict[str, str] | None = None,
    kvm: bool = False,
    limit: float = 3600.0,
    say: Callable[[bytes], object] = _show,
) -> Outcome:
    """Boot, run `command` as root in this working directory, halt. `results` is /out in the guest, and writable.

    Raises `MachineError`.
    """
    lack = missing()
    if lack is not None:
        raise MachineError(lack)
    results.mkdir(parents=True, exist_ok=True)
    for name in ("booted", "exit"):
        (results / name).unlink(missing_ok=True)
    variables = {"HOME": "/root", "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(environment or {})}
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    (results / "command").write_text(
        f"{exports}cd {shlex.quote(str(Path.cwd()))} || exit 1\nexec {shlex.join(command)}\n"
    )
    began = time.monotonic()
    with subprocess.Popen(
        _qemu(image, results, kvm), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as guest:
        late = threading.Timer(limit, guest.kill)

        def give_up() -> None:
            if not (results / "booted").exists():
                guest.kill()

        stuck = threading.Timer(BOOT_MAX, give_up)
        late.start()
        stuck.start()
        try:
            assert guest.stdout is not None
            while said := os.read(guest.stdout.fileno(), 65536):
                say(said.replace(b"\r", b""))
        finally:
            late.cancel()
            stuck.cancel()
            guest.kill()
    total = time.monotonic() - began
    if not (results / "booted").exists():
        raise MachineError(f"the guest did not boot within {total:.0f} s; its last words stand above")
    if not (results / "exit").exists():
        raise MachineError(f"the guest ended after {total:.0f} s without a result (limit: {limit:.0f} s)")
    return Outcome(int((results / "exit").read_text()), float((results / "booted").read_text()), total)


def _qemu(image: Image, results: Path, kvm: bool) -> list[str]:
    def share(path: str | Path, tag: str, *more: str) -> list[str]:
        parts = ["local", f"path={path}", f"mount_tag={tag}", "security_model=none", "multidevs=remap", *more]
        return ["-virtfs", ",".join(parts)]

    return [
        QEMU,
        *("-nodefaults", "-no-reboot", "-display", "none", "-nic", "none", "-serial", "stdio"),
        *("-accel", "kvm" if kvm else "tcg,thread=multi", "-cpu", "host" if kvm else "max"),
        *("-smp", str(min(4, os.cpu_count() or 1)), "-m", MEMORY),
        *share("/", "host", "readonly=on"),
        *share(image.packages, "packages", "readonly=on"),
        *share(results, "out"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
        *("-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off"),
    ]


def main() -> int:
    """`python -m firmware_sim.vm [--kvm] [--kernel PACKAGE] COMMAND...`: the exit code of the command in the guest."""
    parser = argparse.ArgumentParser(prog="firmware_sim.vm", description="A command beside a real kernel.")
    parser.add_argument(
        "--kvm", action="store_true", help="use /dev/kvm; nested virtual machines may hang in it"
    )
    parser.add_argument("--kernel", help="Debian package that depends on a kernel; default: the newest")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        image = build(BUILD, arguments.kernel or newest_kernel())
        outcome = run(image, arguments.command or ["uname", "-a"], BUILD / "out", kvm=arguments.kvm)
    except (ImageError, MachineError) as error:
        print(f"realbluez: {error}", file=sys.stderr)
        return 1
    print(f"booted in {outcome.booted:.1f} s, {outcome.total:.1f} s in all", file=sys.stderr)
    return outcome.code
