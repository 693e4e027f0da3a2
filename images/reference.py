"""The reference image: a stand-in for LifseaOS up to 3.3, built from Debian packages, and images with changes to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images import bootloader, containers, disk, kernel, kubelet, prepare_root, progress, sysroot, tree
from images.bootloader import Platform
from images.store import Ingredient, Store

_HERE = Path(__file__).parent
_LISTS = _HERE / "reference" / "tree.toml"
_FILES = _HERE / "reference" / "files"
_CODE = [_HERE / name for name in ("reference.py", "tree.py", "sysroot.py", "disk.py", "bootloader.py")]
_ROOT_SIZE = 1200
_NAME = "Lifsea reference image"
_OS_RELEASE = """\
NAME="Lifsea reference"
ID=lifsea-reference
ID_LIKE=debian
VERSION="{version}"
VERSION_ID="{version}"
PRETTY_NAME="{name} {version} (Debian packages)"
VARIANT=reference
OSTREE_VERSION={version}
"""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of the image: its number, its kernel build, its new files, and what its GRUB is built for.

    With `metadata` (MiB) its disk has a fifth partition, for the upper layer of an overlay on /etc.
    """

    number: str
    kernel: int
    new_files: tuple[tuple[str, str], ...] = ()
    metadata: int = 0
    platform: Platform = Platform.BIOS


REFERENCE = Version(number="3.3.0", kernel=1)
NEXT = Version(
    number="3.3.1",
    kernel=2,
    new_files=(
        ("usr/share/lifsea/changes", "3.3.1: a new kernel, and this file\n"),
        ("etc/lifsea/defaults.conf", "# A default that 3.3.0 did not have.\nnew_in=3.3.1\n"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the tree before it is committed, and of the sysroot after; `recipe` identifies it."""

    recipe: str
    tree: Callable[[Path], None]
    sysroot: Callable[[Path], None]


def build(store: Store, suite: str, version: Version, *changes: Change, kept_as: str = "") -> Path:
    """Returns the directory with the image (image.qcow2) and its commit (commit); changes are applied in order."""
    linux, release = kernel.kernel(store, version.kernel)
    parts = {
        "kubelet": kubelet.kubelet(store), "prepare-root": prepare_root.prepare_root(store),
        "containers": containers.containers(store, suite),
    }  # fmt: skip
    loader = bootloader.bootloader(store, version.platform)
    lists = tree.Lists.read(_LISTS)
    packages = tree.debian(store, "reference", suite, lists.install, exclude=lists.exclude)
    made_of = [str(path) for path in (linux, packages, loader.directory, *parts.values())]

    def make(into: Path) -> None:
        with store.scratch() as scratch:
            root = scratch / "tree"
            _make_tree(root, packages, lists, version)
            tree.add_program(root, linux, f"usr/lib/modules/{release}/vmlinuz")
            tree.add_program(root, parts["kubelet"], "usr/bin/kubelet")
            tree.add_program(root, parts["prepare-root"], "usr/lib/ostree/ostree-prepare-root")
            tree.lay_out(root)
            for change in changes:
                change.tree(root)
            with progress.step("ostree commit and deployment"):
                commit = sysroot.make(root, scratch / "sysroot", version.number)
            sysroot.put_into_var(scratch / "sysroot", parts["containers"], "lib/containerd")
            for change in changes:
                change.sysroot(scratch / "sysroot")
            sysroot.split_boot(scratch / "sysroot", scratch / "boot", version.platform)
            with progress.step("disk"):
                disk.make(into / "image.qcow2", boot=scratch / "boot", root=scratch / "sysroot",
                          root_size=_ROOT_SIZE, metadata=version.metadata, loader=loader)  # fmt: skip
            (into / "commit").write_text(f"{commit}\n")

    recipe: list[Ingredient] = [*_CODE, _LISTS, _FILES, *made_of, repr(version), *(each.recipe for each in changes)]
    return store.artefact(kept_as or f"image-{version.number}", recipe, make)


def _make_tree(root: Path, packages: Path, lists: tree.Lists, version: Version) -> None:
    with progress.step("tree"):
        tree.unpack(packages, root)
        tree.purge(root, lists.purge)
        tree.trim(root, lists)
        tree.overlay(root, _FILES)
        tree.want(root, lists.wants)
        tree.lock_root(root)
        _identify(root, version)


def _identify(root: Path, version: Version) -> None:
    files = {
        "usr/lib/os-release": _OS_RELEASE.format(name=_NAME, version=version.number),
        "etc/system-release": f"{_NAME} release {version.number}\n",
        "etc/issue": f"{_NAME} {version.number} \\n \\l\n",
        "etc/issue.net": f"{_NAME} {version.number}\n",
        **dict(version.new_files),
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
