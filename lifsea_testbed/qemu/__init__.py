"""QEMU: what it is told (argv), how fast it is here (accelerator), the process itself, and its monitor (QMP)."""
