"""An emulated org.bluez on a private D-Bus, bridged to an HCI controller: what an unmodified BlueZ client talks to.

What it is not: the kernel's Bluetooth stack. `docs/ble-lanes.md` says what this lane proves and what it does not.
"""
