"""The descriptors of one QEMU: its ends of sockets, and its files, opened before it is confined."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from lifsea_testbed.qemu.firmware import FirmwareFiles
from lifsea_testbed.qemu.storage import HeldFile, Layers, MemoryFile, open_regular
from lifsea_testbed.support.confinement import Confinement


class _LayerDescriptors(TypedDict):
    layers: tuple[int, ...]
    write_log: int | None
    reads: int | None


class _MemoryDescriptors(TypedDict):
    memory: int | None
    copied: bool
    incoming: bool


def socket_pairs(inherited: contextlib.ExitStack, kept: contextlib.ExitStack,
                 names: Iterable[str]) -> tuple[dict[str, socket.socket], dict[str, int]]:
    """Returns socket pairs: our ends, which `kept` closes, and the numbers of QEMU's ends, which `inherited` closes."""
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, int] = {}
    for name in names:
        ours[name], end = socket.socketpair()
        kept.callback(ours[name].close)
        inherited.callback(end.close)
        theirs[name] = end.fileno()
    return ours, theirs


def opened(inherited: contextlib.ExitStack, path: Path, mode: int) -> int:
    """Returns a descriptor of the file, which `inherited` closes."""
    return _closed_by(inherited, os.open(path, mode | os.O_CLOEXEC))


def held(inherited: contextlib.ExitStack, file: HeldFile) -> int:
    """Returns a descriptor of that file to read and write, which `inherited` closes."""
    return _closed_by(inherited, file.open(os.O_RDWR))


def of_firmware(inherited: contextlib.ExitStack, firmware: FirmwareFiles | None,
                variables: HeldFile | None) -> tuple[int, int] | None:
    """Returns the descriptors of the code of UEFI, to read, and of the machine's variables; None for a BIOS."""
    if firmware is None or variables is None:
        return None
    return opened(inherited, firmware.code, os.O_RDONLY), held(inherited, variables)


def of_layers(inherited: contextlib.ExitStack, layers: Layers, confinement: Confinement) -> _LayerDescriptors:
    """Returns the descriptors of the layers between image and overlay, and of the logs of writes and reads."""
    log, reads = (None if path is None else _closed_by(inherited, open_regular(path, mode | os.O_CREAT))
                  for path, mode in ((layers.write_log, os.O_RDWR), (layers.reads, os.O_WRONLY)))  # fmt: skip
    if reads is not None:
        confinement.own(reads)  # QEMU opens it again, by /dev/fd, as the user that it is confined to
    return {"layers": tuple(opened(inherited, path, os.O_RDONLY) for path in layers.below), "write_log": log,
            "reads": reads}  # fmt: skip


def of_memory(inherited: contextlib.ExitStack, memory: MemoryFile | None,
              confinement: Confinement) -> _MemoryDescriptors:
    """Returns the descriptor of the memory's file; QEMU opens it again, by /proc, as the user it is confined to."""
    if memory is None:
        return {"memory": None, "copied": False, "incoming": False}
    descriptor = _closed_by(inherited, open_regular(memory.path, os.O_RDONLY if memory.copied else os.O_RDWR))
    if not memory.copied:
        confinement.own(descriptor)
    return {"memory": descriptor, "copied": memory.copied, "incoming": memory.state is not None}


def _closed_by(inherited: contextlib.ExitStack, descriptor: int) -> int:
    inherited.callback(os.close, descriptor)
    return descriptor
