"""ostree-prepare-root as process 1: statically linked, and with a root file system that takes no writes."""

from __future__ import annotations

from pathlib import Path

from images.archive import Archive
from images.command import run
from images.store import Store

# The last Debian release whose ostree can be built this way; the program only follows the `ostree=` of the kernel
# command line, so that it serves later releases as well.
_SUITE = "bookworm"
_PATCH = Path(__file__).parent / "reference" / "prepare-root.patch"


def prepare_root(store: Store) -> Path:
    """Returns the program that switches into the deployment and starts systemd there."""
    made = store.artefact("prepare-root", [Path(__file__), _PATCH], lambda into: _build(store, into))
    return made / "ostree-prepare-root"


def _build(store: Store, into: Path) -> None:
    with store.scratch() as scratch:
        source = scratch / "ostree"
        version = Archive(scratch / "apt", sources=_SUITE).unpack_source("ostree", source)
        run("patch", "-p1", cwd=source, given=_PATCH.read_text())
        include = scratch / "include"
        include.mkdir()
        (include / "config.h").write_text(f'#define PACKAGE_VERSION "{version}"\n')
        run("gcc", "-Os", "-static", "-s", "-DOSTREE_PREPARE_ROOT_STATIC=1", "-D_GNU_SOURCE", f"-I{include}",
            f"-ffile-prefix-map={scratch}=.", "-o", into / "ostree-prepare-root",
            source / "src/switchroot/ostree-prepare-root.c")  # fmt: skip
