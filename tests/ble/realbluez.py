"""`make realbluez`: lane C from the outside: boot a guest, run the tests in it (in_guest.py), one line of figures.

The guest is amd64 Linux under QEMU; it is emulated unless KVM=1 asks for more. KERNEL names another Debian package,
STORIES=1 adds the stories of whole programs.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from firmware_sim.vm.image import ImageError, build, newest_kernel
from firmware_sim.vm.machine import BUILD, MachineError, missing, run
from tests.ble.in_guest import FIGURES

SLOW = "12"
"""Emulated, the suite runs at a tenth of the speed; bounds are three times those of `make test`."""

LIMIT = 3600.0
"""Seconds for everything; 7 minutes on two quiet cores under TCG, 20 with a load of 15."""


def main(arguments: list[str]) -> int:
    """On the host. The exit code: 0 only if tests ran and all held."""
    results = BUILD / "out"
    kvm = os.environ.get("KVM") == "1"
    try:
        if (lack := missing()) is not None:
            raise MachineError(lack)
        image = build(BUILD, os.environ.get("KERNEL") or newest_kernel())
        (results / FIGURES).unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.ble.in_guest", *arguments]
        environment = {
            "GLASSBRIDGE_LANES": "realbluez",
            "GLASSBRIDGE_SLOW": SLOW,
            "PYTHONDONTWRITEBYTECODE": "1",
            "STORIES": os.environ.get("STORIES", ""),
        }
        outcome = run(image, command, results, environment=environment, kvm=kvm, limit=LIMIT)
        figures: dict[str, Any] = json.loads((results / FIGURES).read_text())
    except (ImageError, MachineError, OSError) as error:
        print(f"realbluez: {error}", file=sys.stderr)
        return 1
    for test in figures["failed"]:
        print(f"failed: {test}")
    print(
        f"bluetoothd {figures['bluetoothd']} on Linux {figures['linux']}: {figures['tests']} tests, "
        f"{len(figures['failed'])} failed, {figures['skipped']} skipped; bluetoothd died {figures['deaths']} times, "
        f"{figures['kernel_bugs']} kernel bugs; booted in {outcome.booted:.1f} s, {outcome.total:.0f} s in all "
        f"({'KVM' if kvm else 'emulated'})"
    )
    return outcome.code or (0 if figures["tests"] else 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
