"""The release lines of the reference image: 3.3, 3.4 with /etc an overlay and /var on a data disk, 3.5 without a shell.

A line is 3.3's tree, changed by the scripts in reference/LINE/tree.sh. All boot by BIOS; of LifseaOS only 3.3 does.
"""

from __future__ import annotations

from pathlib import Path

from images import containers, reference
from images.command import run
from images.reference import Change, Version
from images.store import Store, fingerprint

_HERE = Path(__file__).parent / "reference"
_PREINIT = _HERE / "3.4" / "preinit.c"
_METADATA = 1024
#: The first version of each line, and the scripts that turn the tree into it.
_LINES = {
    "3.3": (reference.REFERENCE, ()),
    "3.4": (Version(number="3.4.0", kernel=1, metadata=_METADATA), ("3.4",)),
    "3.5": (Version(number="3.5.0", kernel=1, metadata=_METADATA), ("3.4", "3.5")),
}


def build(store: Store, suite: str, line: str, *changes: Change, kept_as: str = "") -> Path:
    """Returns the directory with the first image of that line, with the changes applied last."""
    version, scripts = _LINES[line]
    steps = [_step(store, suite, _HERE / script) for script in scripts]
    return reference.build(store, suite, version, *steps, *changes, kept_as=kept_as)


def _step(store: Store, suite: str, directory: Path) -> Change:
    """The change by the directory's script; /var, which is on another disk then, is left empty."""
    environment = {"LINE": str(directory), "CONTAINERS": str(containers.containers(store, suite)),
                   "PREINIT": str(_preinit(store))}  # fmt: skip

    def change(tree: Path) -> None:
        run("bash", "-eu", "-o", "pipefail", directory / "tree.sh", cwd=tree, environment=environment)

    def empty_var(sysroot: Path) -> None:
        run("find", sysroot / "ostree/deploy/lifsea/var", "-mindepth", "1", "-delete")

    return Change(recipe=fingerprint([directory, repr(environment)]), tree=change, sysroot=empty_var)


def _preinit(store: Store) -> Path:
    def make(into: Path) -> None:
        run("gcc", "-Os", "-static", "-s", "-o", into / "preinit", _PREINIT)

    return store.artefact("preinit", [Path(__file__), _PREINIT], make) / "preinit"
