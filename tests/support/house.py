"""The floors of the package, each with its packages and what a reader finds there; the picture of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from tests.support import ROOT

PACKAGE = ROOT / "lifsea_testbed"


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Packages that do not know each other; they know those of the floors below."""

    name: str
    packages: dict[str, str]


#: The lowest first. `errors` and `support` are one: errors are redacted, and redaction raises errors.
FLOORS = (
    Floor(name="ground", packages={
        "errors": "the error tree: the type of an exception is the verdict",
        "support": "deadlines, liveness, protocols, sanitising, redaction, confinement, host capacity",
    }),
    Floor(name="inputs and figures", packages={
        "disk": "the image, and the file systems on it, read offline",
        "profiles": "the catalogue of claims, and which OS makes which",
        "ecs": "the instance: its hardware, its identity, its metadata service",
        "perf": "metrics, history, comparison, dashboard",
    }),
    Floor(name="wires", packages={
        "guest": "typed questions to a running guest, or to its disk",
        "console": "transcript, command channel, login",
        "qemu": "command line, process, QMP, accelerator",
    }),
    Floor(name="machine", packages={
        "machine": "one machine; the factory, the pool, snapshots, fleets",
        "upgrade": "upgrade tools, offers, the repository that serves them",
    }),
    Floor(name="experiments", packages={
        "scenarios": "what is done to a machine once, for several tests",
        "cluster": "a control plane, and nodes that join it",
        "powercut": "every crash state of an upgrade, booted",
        "boottime": "cold boots, observed and compared",
    }),
    Floor(name="results", packages={
        "report": "outcomes, the gate's document, every report made of it",
    }),
    Floor(name="entry", packages={
        "plugin": "pytest: options, hooks, fixtures, xdist, shards",
        "cli": "doctor, explain, shell, boot-time, powercut, gate, dashboard",
    }),
    Floor(name="", packages={"__main__": "python -m lifsea_testbed"}),
)  # fmt: skip
GROUND = frozenset(FLOORS[0].packages)


def modules() -> list[Path]:
    """Returns every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Returns the dotted name of a module below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yields every name that a module imports, in functions and for type checkers as well."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(module: str) -> str | None:
    """Returns the package on a floor that an absolute name leads to; None for another project's."""
    name = module.removeprefix("lifsea_testbed.").partition(".")[0]
    return name if module.startswith("lifsea_testbed.") and any(name in floor.packages for floor in FLOORS) else None


def floor_of(package: str) -> int:
    """Returns the number of a package's floor, the lowest 0."""
    return next(number for number, floor in enumerate(FLOORS) if package in floor.packages)


# The picture

_WIDTH, _LEFT, _HEIGHT, _GAP, _TEXT = 1080, 150, 86, 12, 15
_COLOURS = ("#e8eef7", "#e3f0e6", "#f6f0dc", "#f7e6dc", "#f0e3ef", "#e3eef0", "#ececec")


def picture() -> str:
    """Returns the floors as an SVG, the highest on top."""
    floors = FLOORS[:-1]
    height = len(floors) * (_HEIGHT + _GAP) + _GAP
    rows = "\n".join(_row(floor, number, (len(floors) - 1 - number) * (_HEIGHT + _GAP) + _GAP)
                     for number, floor in enumerate(floors))  # fmt: skip
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
            f'role="img" aria-label="The floors of lifsea_testbed: imports go down">\n'
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n{rows}\n</svg>\n')


def _row(floor: Floor, number: int, top: int) -> str:
    width = (_WIDTH - _LEFT - _GAP) // len(floor.packages)
    boxes = "\n".join(_box(name, text, _LEFT + place * width, top, width - _GAP, _COLOURS[number])
                      for place, (name, text) in enumerate(floor.packages.items()))  # fmt: skip
    label = f'<text x="{_GAP}" y="{top + 36}" font-size="15" fill="#333333">{number + 1}</text>'
    words = "\n".join(f'<text x="{_GAP + 20}" y="{top + 36 + 18 * line}" font-size="14" fill="#333333">{word}</text>'
                      for line, word in enumerate(_lines(floor.name, 14)))  # fmt: skip
    return f"{label}\n{words}\n{boxes}"


def _box(name: str, text: str, left: int, top: int, width: int, colour: str) -> str:
    lines = _lines(text, max(16, width // 7))
    words = "\n".join(f'<text x="{left + 10}" y="{top + 44 + _TEXT * line}" font-size="12" fill="#444444">'
                      f"{escape(words)}</text>" for line, words in enumerate(lines))  # fmt: skip
    return (f'<rect x="{left}" y="{top}" width="{width}" height="{_HEIGHT}" rx="6" fill="{colour}" stroke="#8a8a8a"/>\n'
            f'<text x="{left + 10}" y="{top + 24}" font-size="15" font-weight="bold" fill="#111111">{name}</text>\n'
            f"{words}")


def _lines(text: str, length: int) -> list[str]:
    """The text in lines of at most so many characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > length and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
