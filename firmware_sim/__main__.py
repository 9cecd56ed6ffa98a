"""`python -m firmware_sim`: the simulator process without the glassbridge command."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from firmware_sim.firmware import MODELS
from firmware_sim.room import run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="firmware_sim", description="Simulated smart glasses on a virtual radio."
    )
    parser.add_argument("--model", default="g1", help=f"comma-separated: {', '.join(sorted(MODELS))}")
    parser.add_argument("--count", type=int, default=1, help="devices of each model")
    parser.add_argument("--hci", action="append", default=[], help="unix-server:PATH or tcp-server:HOST:PORT")
    parser.add_argument("--control-port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--scenario", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--btsnoop", type=Path, help="write the hosts' HCI traffic for Wireshark")
    parser.add_argument("--json", action="store_true", help="print the ready line as JSON")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, stream=sys.stderr)
    return run(
        [model.strip() for model in arguments.model.split(",")],
        arguments.count,
        arguments.hci,
        arguments.control_port,
        arguments.scenario,
        arguments.seed,
        arguments.btsnoop,
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
