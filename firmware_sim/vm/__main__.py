"""`python -m firmware_sim.vm COMMAND...`: run a command in the guest of lane C, beside a real bluetoothd's kernel."""

import sys

from firmware_sim.vm.machine import main

if __name__ == "__main__":
    sys.exit(main())
