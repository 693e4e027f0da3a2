"""The descriptors of one QEMU: its ends of sockets, and its files, opened before it is confined."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from lifsea_testbed.qemu.storage import Layers, MemoryFile


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
    descriptor = os.open(path, mode | os.O_CLOEXEC)
    inherited.callback(os.close, descriptor)
    return descriptor


def of_layers(inherited: contextlib.ExitStack, layers: Layers) -> _LayerDescriptors:
    """Returns the descriptors of the layers between image and overlay, and of the logs of writes and reads."""
    log = None if layers.write_log is None else opened(inherited, layers.write_log, os.O_RDWR | os.O_CREAT)
    reads = None if layers.reads is None else opened(inherited, layers.reads, os.O_WRONLY | os.O_CREAT)
    if reads is not None:
        os.fchmod(reads, 0o666)  # QEMU opens it again, by /dev/fd, as the user that it is confined to
    return {"layers": tuple(opened(inherited, path, os.O_RDONLY) for path in layers.below), "write_log": log,
            "reads": reads}  # fmt: skip


def of_memory(inherited: contextlib.ExitStack, memory: MemoryFile | None) -> _MemoryDescriptors:
    """Returns the descriptor of the memory's file; QEMU opens it again, by /proc, as the user it is confined to."""
    if memory is None:
        return {"memory": None, "copied": False, "incoming": False}
    descriptor = opened(inherited, memory.path, os.O_RDONLY if memory.copied else os.O_RDWR)
    return {"memory": descriptor, "copied": memory.copied, "incoming": memory.state is not None}
