"""The release lines of the reference image: 3.3, 3.4 by UEFI with a data disk, 3.5 without a shell, 3.6 with tokens.

A line is 3.3's tree, changed by the scripts in reference/LINE/tree.sh of each line up to it.
"""

from __future__ import annotations

from pathlib import Path

from images import containers, reference
from images.bootloader import Platform
from images.command import run
from images.reference import Change, Version
from images.store import Store, fingerprint

_HERE = Path(__file__).parent / "reference"
#: The programs that the script of a line installs: its variable for it, the source, and options of the compiler.
_PROGRAMS = {
    "3.4": {"PREINIT": ["3.4/preinit.c"]},
    "3.5": {"PREINIT": ["3.4/preinit.c", "-DETC_OPTIONS=MS_NOEXEC"], "LIFSEACLI": ["3.5/lifseacli.c"]},
}
#: The first version of each line, and the scripts that turn the tree into it; the size of the metadata partition (MiB)
#: is LifseaOS's.
_LINES = {
    "3.3": (reference.REFERENCE, ()),
    "3.4": (Version(number="3.4.0", kernel=1, metadata=1024, platform=Platform.UEFI), ("3.4",)),
    "3.5": (Version(number="3.5.0", kernel=1, metadata=2048, platform=Platform.UEFI), ("3.4", "3.5")),
    "3.6": (Version(number="3.6.0", kernel=1, metadata=2048, platform=Platform.UEFI), ("3.4", "3.5", "3.6")),
}


def build(store: Store, suite: str, line: str, *changes: Change, kept_as: str = "") -> Path:
    """Returns the directory with the first image of that line, with the changes applied last."""
    version, scripts = _LINES[line]
    steps = [_step(store, suite, script) for script in scripts]
    return reference.build(store, suite, version, *steps, *changes, kept_as=kept_as)


def _step(store: Store, suite: str, line: str) -> Change:
    """The change by the line's script; /var, which is on another disk then, is left empty."""
    directory = _HERE / line
    environment = {"LINE": str(directory), "CONTAINERS": str(containers.containers(store, suite))}
    for name, (source, *options) in _PROGRAMS.get(line, {}).items():
        environment[name] = str(_program(store, _HERE / source, *options))

    def change(tree: Path) -> None:
        run("bash", "-eu", "-o", "pipefail", directory / "tree.sh", cwd=tree, environment=environment)

    def empty_var(sysroot: Path) -> None:
        run("find", sysroot / "ostree/deploy/lifsea/var", "-mindepth", "1", "-delete")

    return Change(recipe=fingerprint([directory, repr(environment)]), tree=change, sysroot=empty_var)


def _program(store: Store, source: Path, *options: str) -> Path:
    def make(into: Path) -> None:
        run("gcc", "-Os", "-static", "-s", *options, "-o", into / source.stem, source)

    return store.artefact(source.stem, [Path(__file__), source, *options], make) / source.stem
