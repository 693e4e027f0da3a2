"""python -m images: builds the images that the test bed is tested with."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from images import contents, control, control_plane, lines, mutations, progress, reference, sbom
from images.command import run
from images.errors import BuildError
from images.store import Store

_RECIPES: dict[str, Callable[[Store, str], Path]] = {
    "reference": lambda store, suite: reference.build(store, suite, reference.REFERENCE),
    "reference-3.4": lambda store, suite: lines.build(store, suite, "3.4"),
    "reference-3.5": lambda store, suite: lines.build(store, suite, "3.5"),
    "reference-3.6": lambda store, suite: lines.build(store, suite, "3.6"),
    "next": lambda store, suite: reference.build(store, suite, reference.NEXT),
    "control": lambda store, suite: control.build(store),
}


_CONTROL_PLANE = "control-plane"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.name is None:
        print(mutations.document(), end="")
        return 0
    started = time.monotonic()
    try:
        made = _deliver(options.name, options.output, options.suite)
    except (BuildError, OSError) as error:
        print(f"{options.name}: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in made) / (1 << 20)
    progress.line(f"{options.output}: {options.name}, {size:.0f} MiB, {time.monotonic() - started:.1f} s")
    return 0


def _deliver(name: str, output: Path, suite: str) -> list[Path]:
    """Builds an image with its bill of materials, or the programs of the control plane; returns the built files."""
    if name != _CONTROL_PLANE:
        made = _made(name, store := Store(), suite) / "image.qcow2"
        deliver(made, output)
        if name in _RECIPES:
            deliver(_bill(name, made, store), output.with_name(f"{output.stem}.spdx.json"))
        return [output]
    made = control_plane.control_plane(Store())
    for program in control_plane.PROGRAMS:
        deliver(made / program, output / program)
    return [output / program for program in control_plane.PROGRAMS]


def _made(name: str, store: Store, suite: str) -> Path:
    if name.startswith(mutations.PREFIX):
        return mutations.build(store, suite, name.removeprefix(mutations.PREFIX))
    return _RECIPES[name](store, suite)


def _bill(name: str, image: Path, store: Store) -> Path:
    """The bill of materials of an image in the cache, made from what the image holds; it is an artefact of its own."""
    code = [Path(module.__file__ or "") for module in (contents, sbom)]

    def make(into: Path) -> None:
        sbom.write(into / "spdx.json", name, image, contents.read(image, store.packages_of))

    return store.artefact(f"bill-{name}", [*code, str(image)], make) / "spdx.json"


def deliver(image: Path, output: Path) -> None:
    """Copies a finished file to its destination, whole or not at all; an equal file is left untouched."""
    if output.is_file() and output.stat().st_mtime_ns == image.stat().st_mtime_ns \
            and output.stat().st_size == image.stat().st_size:  # fmt: skip
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        run("cp", "--sparse=always", "--preserve=timestamps", image, partial)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="build an image, or take it from the cache")
    images = [*sorted(_RECIPES), *(f"{mutations.PREFIX}{name}" for name in mutations.names())]
    build.add_argument("name", choices=images, metavar="NAME",
                       help=f"which image: {', '.join(sorted(_RECIPES))}, or {mutations.PREFIX}NAME")  # fmt: skip
    build.add_argument("-o", "--output", type=Path, required=True, help="the qcow2 file to write")
    build.add_argument("--suite", default="trixie", help="the Debian suite of its packages (default: %(default)s)")
    programs = commands.add_parser(_CONTROL_PLANE, help="build the control plane that nodes are tested with")
    programs.set_defaults(name=_CONTROL_PLANE, suite="")
    programs.add_argument("-o", "--output", type=Path, required=True, help="the directory for its programs")
    commands.add_parser("mutants", help="print docs/mutants.md").set_defaults(name=None)
    return parser
