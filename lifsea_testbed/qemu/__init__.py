"""QEMU: its command line, the accelerator of this host, the process, its monitor (QMP), and a machine's files."""
