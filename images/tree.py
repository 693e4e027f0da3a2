"""A Debian tree made small and read-only: packages purged and trimmed, laid out as an ostree commit."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from images.archive import mirror
from images.command import run
from images.errors import BuildError
from images.store import Store

_UNITS = "usr/lib/systemd/system"
#: Time stamps that are built into a tree are those of the first minute of 2026.
EPOCH = "1767225600"
_LINKS = {
    "home": "var/home", "root": "var/roothome", "opt": "var/opt", "mnt": "var/mnt", "srv": "var/srv",
    "media": "run/media", "ostree": "sysroot/ostree", "usr/local": "../var/usrlocal",
}  # fmt: skip
_DIRECTORIES = {
    "dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "tmp": 0o1777, "boot": 0o755, "var": 0o755,
    "sysroot": 0o755,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The content of tree.toml; paths and patterns are relative to the tree."""

    install: list[str]
    purge: list[str]
    exclude: list[str]
    wants: dict[str, list[str]]
    keep: dict[str, list[str]]
    remove: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> Lists:
        """Reads the lists from a TOML file."""
        return cls(**tomllib.loads(path.read_text("utf-8")))


@dataclass(frozen=True, kw_only=True)
class Stanza:
    """One package of a dpkg status file."""

    package: str
    text: str


def debian(store: Store, name: str, suite: str, packages: Sequence[str], *, variant: str = "apt",
           exclude: Sequence[str] = (), hooks: Sequence[str] = ()) -> Path:
    """Returns a tar archive of an installed Debian, without recommended packages."""
    recipe = [suite, variant, *packages, *exclude, *hooks]
    options = [f"--dpkgopt=path-exclude={path}" for path in exclude] + [f"--customize-hook={hook}" for hook in hooks]

    def make(into: Path) -> None:
        run("mmdebstrap", f"--variant={variant}", "--mode=root", f"--include={','.join(packages)}",
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", '--aptopt=APT::Install-Recommends "false"',
            *options, suite, into / "tree.tar", f"deb {mirror()} {suite} main",
            environment={"SOURCE_DATE_EPOCH": EPOCH})  # fmt: skip

    return store.artefact(f"packages-{name}", recipe, make) / "tree.tar"


def unpack(archive: Path, tree: Path) -> None:
    """Unpacks a tar archive with owners, modes and extended attributes."""
    tree.mkdir()
    run("tar", "--extract", "--numeric-owner", "--xattrs", "--file", archive, "--directory", tree)


def stanzas(status: str) -> list[Stanza]:
    """Reads a dpkg status file."""
    texts = [text for text in status.strip().split("\n\n") if text]
    return [Stanza(package=re.findall(r"^Package: (\S+)", text, re.MULTILINE)[0], text=text) for text in texts]


def purge(tree: Path, unwanted: Iterable[str]) -> None:
    """Removes packages, with each file that no other package has, and keeps the database of the others."""
    installed = stanzas((tree / "var/lib/dpkg/status").read_text("utf-8"))
    gone = {stanza.package for stanza in installed} & set(unwanted)
    owners = Counter(file for stanza in installed for file in set(_files(tree, stanza.package)))
    for file in _only_owned_by(gone, owners, tree):
        path = tree / file.lstrip("/")
        if path.is_symlink() or path.is_file():
            path.unlink()
    database = tree / "usr/share/package-db"
    database.mkdir()
    staying = [stanza.text for stanza in installed if stanza.package not in gone]
    (database / "status").write_text("\n\n".join(staying) + "\n", "utf-8")


def trim(tree: Path, lists: Lists) -> None:
    """Removes the listed paths, scripts without an interpreter, and links to removed units."""
    for directory, patterns in lists.remove.items():
        for pattern in patterns:
            _remove_all((tree / directory).glob(pattern))
    for directory, kept in lists.keep.items():
        entries = (tree / directory).iterdir()
        _remove_all(path for path in entries if not any(fnmatch(path.name, pattern) for pattern in kept))
    _remove_all(path for path in _programs(tree) if _needs_missing_interpreter(path))
    _remove_all(path for path in (tree / _UNITS).rglob("*") if path.is_symlink() and _dangles(path, tree))


def overlay(tree: Path, files: Path) -> None:
    """Copies files over the tree; they belong to root, and only root can write to them."""
    run("cp", "--recursive", "--no-dereference", "--preserve=mode,links", f"{files}/.", tree)
    for path in files.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            (tree / path.relative_to(files)).chmod(0o755 if executable else 0o644)


def want(tree: Path, wants: Mapping[str, Sequence[str]]) -> None:
    """Makes units wanted by others, and the system come up to multi-user.target.

    Raises:
        BuildError: there is no such unit.
    """
    units = tree / _UNITS
    for target, wanted in wants.items():
        directory = units / f"{target}.wants"
        directory.mkdir(exist_ok=True)
        for unit in wanted:
            file = re.sub("@.*[.]", "@.", unit)
            if not (units / file).exists():
                raise BuildError(f"{target} is to want {unit}, and there is no {file}")
            link = directory / unit
            link.unlink(missing_ok=True)
            link.symlink_to(f"../{file}")
    (units / "default.target").symlink_to("multi-user.target")


def lock_root(tree: Path) -> None:
    """Locks the password of root."""
    shadow = tree / "etc/shadow"
    shadow.write_text(re.sub(r"^root:[^:]*:", "root:*:", shadow.read_text(), flags=re.MULTILINE))


def add_program(tree: Path, program: Path, path: str) -> None:
    """Copies an executable into the tree."""
    target = tree / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(program, target)
    target.chmod(0o755)


def lay_out(tree: Path) -> None:
    """Turns the tree into the content of an ostree commit: /usr/etc, an empty /var, and links into it."""
    run("ldconfig", "-r", tree)
    (tree / "etc").rename(tree / "usr/etc")
    for name in {*_DIRECTORIES, *_LINKS}:
        _remove(tree / name)
    for name, mode in _DIRECTORIES.items():
        (tree / name).mkdir()
        (tree / name).chmod(mode)
    for name, target in _LINKS.items():
        (tree / name).symlink_to(target)


def _files(tree: Path, package: str) -> list[str]:
    information = tree / "var/lib/dpkg/info"
    lists = [information / f"{package}.list", information / f"{package}:amd64.list"]
    return [line for path in lists if path.is_file() for line in path.read_text("utf-8").splitlines() if line]


def _only_owned_by(gone: set[str], owners: Counter[str], tree: Path) -> Iterator[str]:
    going = Counter(file for package in gone for file in set(_files(tree, package)))
    return (file for file, count in going.items() if count == owners[file])


def _programs(tree: Path) -> Iterator[Path]:
    for directory in ("usr/bin", "usr/sbin", "usr/lib", "usr/libexec", "usr/share"):
        yield from (path for path in (tree / directory).rglob("*") if path.is_file() and not path.is_symlink())


def _needs_missing_interpreter(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.read(64).partition(b"\n")[0]
    return first.startswith(b"#!") and (b"perl" in first or b"python" in first)


def _dangles(link: Path, tree: Path) -> bool:
    target = link.readlink()
    if str(target) == "/dev/null":
        return False
    place = tree / target.relative_to("/") if target.is_absolute() else link.parent / target
    return not (place.exists() or place.is_symlink())


def _remove_all(paths: Iterable[Path]) -> None:
    for path in list(paths):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
