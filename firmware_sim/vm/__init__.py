"""Lane C: a real bluetoothd on a real Linux kernel, in a virtual machine that needs no KVM and no adapter."""
