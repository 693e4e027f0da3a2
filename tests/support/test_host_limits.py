"""An error that comes from a limit of the host names the limit, its value, and what raises it."""

from __future__ import annotations

import resource

import pytest

from lifsea_testbed.support.host_limits import hint_for


@pytest.mark.parametrize(("error", "hint"), [
    ("qemu-system-x86_64: -accel tcg: allocate 1073741824 bytes for jit buffer: Cannot allocate memory", "ulimit -v"),
    ("error while loading shared libraries: libc.so.6: failed to map segment from shared object", "ulimit -v"),
    ("qemu: qemu_thread_create: Resource temporarily unavailable", "ulimit -u"),
    ("Too many open files", "ulimit -n"), ("could not load PC BIOS 'bios.bin': Permission denied", "umask 077"),
    ("unknown option", "reinstall"),
])  # fmt: skip
def test_the_limit_is_named(monkeypatch: pytest.MonkeyPatch, error: str, hint: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda number: (488 << 20, 488 << 20))
    assert hint in hint_for(error, "reinstall")
    assert "ulimit -v" not in hint or "488 MiB" in hint_for(error)


def test_without_a_limit_memory_is_what_the_host_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda number: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "MiB of memory are available" in hint_for("Cannot allocate memory")
