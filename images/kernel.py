"""The reference image's own kernel, from Debian's kernel source: two builds, for an image and the next one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from images.command import run
from images.store import Store

_SOURCE = Path("/usr/src/linux-source-6.1.tar.xz")
_CONFIGURATION = Path(__file__).parent / "reference" / "kernel.config"
#: What is compiled into a kernel besides its source, so that the same source gives the same kernel.
_BUILD = {"KBUILD_BUILD_TIMESTAMP": "2026-01-01", "KBUILD_BUILD_USER": "root", "KBUILD_BUILD_HOST": "reference"}


def kernel(store: Store, number: int) -> tuple[Path, str]:
    """Returns the kernel image of build 1 or 2 and its release, as `uname -r` gives it."""
    source = run("dpkg-query", "-W", "-f", "${Version}", "linux-source-6.1")
    built = store.artefact("kernel", [Path(__file__), _CONFIGURATION, source], lambda into: _build(store, into))
    return built / f"vmlinuz-{number}", (built / f"release-{number}").read_text()


def _build(store: Store, into: Path) -> None:
    with store.scratch() as scratch:
        run("tar", "--extract", "--file", _SOURCE, "--directory", scratch, "--strip-components=1")
        shutil.copy(_CONFIGURATION, scratch / ".config")
        run("make", "olddefconfig", cwd=scratch)
        for number in (1, 2):
            version = f"LOCALVERSION=-{number}.lifsea8"
            run("make", f"-j{os.cpu_count()}", version, "bzImage", cwd=scratch, environment=_BUILD)
            shutil.copy(scratch / "arch/x86/boot/bzImage", into / f"vmlinuz-{number}")
            release = run("make", "--silent", version, "kernelrelease", cwd=scratch, environment=_BUILD)
            (into / f"release-{number}").write_text(release.strip())
