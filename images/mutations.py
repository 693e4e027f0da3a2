"""The mutants: images that break one promise each, built from the reference image by the scripts in mutants/*.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from images import lines, reference
from images.archive import Archive
from images.command import run
from images.errors import BuildError
from images.store import Store

_HERE = Path(__file__).parent
_RECIPES = _HERE / "mutants"
_FUNCTIONS = _HERE / "mutants" / "functions.sh"
PREFIX = "mutant:"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One way to break a promise.

    `claim` is the one that has to fail, `also` are others that were seen to fail with it; `change` describes the
    change, `why` the reason why it is easy to miss. `tree` is run in the tree that is committed, `sysroot` in the
    deployed sysroot; both as root, with $PACKAGES (unpacked Debian packages, of `suite` if it is not the image's) and
    the functions of functions.sh. `line` is the release line whose image is changed, and whose profile judges it.
    """

    name: str
    claim: str
    change: str
    why: str
    also: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    suite: str = ""
    tree: str = ""
    sysroot: str = ""
    line: str = "3.3"

    @property
    def profile(self) -> str:
        """The profile that judges the mutant."""
        return "reference" if self.line == "3.3" else f"reference-{self.line}"

    @property
    def recipe(self) -> str:
        """Everything that the image depends on."""
        return repr((self.packages, self.suite, self.tree, self.sysroot, _FUNCTIONS.read_text("utf-8")))


def names() -> list[str]:
    """Returns the names of all mutants."""
    return sorted(path.stem for path in _RECIPES.glob("*.toml"))


def read(name: str) -> Mutant:
    """Reads the mutant of that name.

    Raises:
        BuildError: it does not exist, or its file is not valid.
    """
    path = _RECIPES / f"{name}.toml"
    try:
        fields = tomllib.loads(path.read_text("utf-8"))
        lists = {key: tuple(fields.pop(key, ())) for key in ("also", "packages")}
        return Mutant(name=name, **{**fields, **lists})
    except (OSError, TypeError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"mutant {name}: {error}") from None


def build(store: Store, suite: str, name: str) -> Path:
    """Returns the directory with the mutant's image (image.qcow2); the last few that were used are kept."""
    return make(store, suite, read(name))


def make(store: Store, suite: str, mutant: Mutant) -> Path:
    """Returns the directory with the image of a mutant, which need not have a file."""

    def change(script: str, place: Path) -> None:
        if script:
            with store.scratch() as scratch:
                _unpack(mutant.packages, mutant.suite or suite, scratch)
                run("bash", "-eu", "-o", "pipefail", "-c", f'. "{_FUNCTIONS}"\n{script}', cwd=place,
                    environment={"PACKAGES": str(scratch / "packages")})  # fmt: skip

    mutation = reference.Change(
        recipe=mutant.recipe,
        tree=lambda tree: change(mutant.tree, tree), sysroot=lambda sysroot: change(mutant.sysroot, sysroot),
    )  # fmt: skip
    return lines.build(store, suite, mutant.line, mutation, kept_as="mutant")


def document() -> str:
    """Returns the text of docs/mutants.md: a row for each mutant."""
    mutants = [read(name) for name in names()]
    rows = [f"| `{mutant.name}` | `{mutant.claim}` | {mutant.change} | {mutant.why} |" for mutant in mutants]
    return _DOCUMENT.format(count=len(mutants), claims=len({mutant.claim for mutant in mutants}), rows="\n".join(rows))


def _unpack(packages: tuple[str, ...], suite: str, scratch: Path) -> None:
    if packages:
        Archive(scratch / "apt", packages=suite).unpack(list(packages), scratch / "packages")


_DOCUMENT = """\
# Mutants: images that break a promise

A suite that passes on a good image proves nothing until it is seen to fail on a bad one. Each of these {count} images
is the reference image with one change, and the claim beside it has to fail on it; {claims} claims are tested this way.
A mutant is a file in `images/mutants/`; `python -m images mutants` prints this page. If the file names a release line,
such as 3.5, that line's image is changed.

```sh nightly
python -m images build mutant:python-in-libexec -o build/mutant.qcow2
pytest suites --image build/mutant.qcow2 --claim no-python || test $? = 1
```

`.venv/bin/pytest tests/mutants -m nightly` builds each and judges it by its claim; on a sample it runs every suite, and
a claim that fails there and is neither the mutant's own nor listed as `also` is a false alarm. The results are in
`reports/mutants.md`; [mutants-judged.md](mutants-judged.md) is the last copy of that file.

| mutant | claim that has to fail | change | why it is easy to miss |
|---|---|---|---|
{rows}
"""
