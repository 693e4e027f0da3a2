"""The mutants: images that break one promise each, made of the reference image by the scripts in mutants/*.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from images import reference
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

    `claim` is the one that has to find it, `also` are others that it may break as well; `change` says what is done,
    `why` what makes it easy to miss. `tree` is run in the tree that is committed, `sysroot` in the deployed sysroot;
    both as root, with $PACKAGES (unpacked Debian packages) and the functions of functions.sh.
    """

    name: str
    claim: str
    change: str
    why: str
    also: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    tree: str = ""
    sysroot: str = ""

    @property
    def recipe(self) -> str:
        """Everything that the image depends on."""
        return repr((self.packages, self.tree, self.sysroot, _FUNCTIONS.read_text("utf-8")))


def names() -> list[str]:
    """Returns the names of all mutants."""
    return sorted(path.stem for path in _RECIPES.glob("*.toml"))


def read(name: str) -> Mutant:
    """Reads the mutant of that name.

    Raises:
        BuildError: there is none, or its file does not hold together.
    """
    path = _RECIPES / f"{name}.toml"
    try:
        fields = tomllib.loads(path.read_text("utf-8"))
        lists = {key: tuple(fields.pop(key, ())) for key in ("also", "packages")}
        return Mutant(name=name, **{**fields, **lists})
    except (OSError, TypeError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"mutant {name}: {error}") from None


def build(store: Store, suite: str, name: str) -> Path:
    """Returns the directory with the mutant's image (image.qcow2); the few that were used last are kept."""
    return make(store, suite, read(name))


def make(store: Store, suite: str, mutant: Mutant) -> Path:
    """Returns the directory with the image of a mutant that need not have a file of its own."""

    def change(script: str, place: Path) -> None:
        if script:
            with store.scratch() as scratch:
                _unpack(mutant.packages, suite, scratch)
                run("bash", "-eu", "-o", "pipefail", "-c", f'. "{_FUNCTIONS}"\n{script}', cwd=place,
                    environment={"PACKAGES": str(scratch / "packages")})  # fmt: skip

    mutation = reference.Mutation(
        recipe=mutant.recipe,
        tree=lambda tree: change(mutant.tree, tree), sysroot=lambda sysroot: change(mutant.sysroot, sysroot),
    )  # fmt: skip
    return reference.build(store, suite, reference.REFERENCE, mutation)


def document() -> str:
    """Returns docs/mutants.md: a row for each mutant."""
    mutants = [read(name) for name in names()]
    rows = [f"| `{mutant.name}` | `{mutant.claim}` | {mutant.change} | {mutant.why} |" for mutant in mutants]
    return _DOCUMENT.format(count=len(mutants), claims=len({mutant.claim for mutant in mutants}), rows="\n".join(rows))


def _unpack(packages: tuple[str, ...], suite: str, scratch: Path) -> None:
    if packages:
        Archive(scratch / "apt", packages=suite).unpack(list(packages), scratch / "packages")


_DOCUMENT = """\
# Mutants: images that break a promise

A suite that passes on a good image shows nothing until it is seen to fail on a bad one. Each of these {count} images is
the reference image with one change, and the claim named beside it has to fail on it; {claims} claims are tried so. A
mutant is a file in `images/mutants/`; this page is made of them by `python -m images mutants`.

```sh nightly
python -m images build mutant:python-in-libexec -o build/mutant.qcow2
pytest suites --image build/mutant.qcow2 --claim no-python || test $? = 1
```

`.venv/bin/pytest tests/mutants -m nightly` makes each and judges it by the claim meant; on a sample it runs every
suite, and a claim that fails there and is neither the one meant nor listed as `also` is a false alarm. What became of
each is in `reports/mutants.md`.

| mutant | claim that has to fail | what is changed | why it is easy to miss |
|---|---|---|---|
{rows}
"""
