"""Small disks for the tests, made of directories and without privileges."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from lifsea_testbed.disk.image_formats import DiskFormat

_MIB = 1 << 20
#: Where the partitions start and how large they are, in MiB.
_BOOT, _ROOT, _SIZE = 1, 17, 16


def run(*command: str | Path, given: str = "") -> str:
    ran = subprocess.run(list(map(str, command)), input=given, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{command}: {ran.stderr}"
    return ran.stdout


def fill(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    """Creates the files; content `-> TARGET` is a link, a name that ends in `*` is executable, in `!` setuid."""
    for name, content in files.items():
        path = directory / name.rstrip("*!")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            path.symlink_to(content.removeprefix("-> "))
            continue
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o4755 if name.endswith("!") else 0o755 if name.endswith("*") else 0o644)
    return directory


def file_system(path: Path, content: Path, *options: str, offset: int = 0, size: int = _SIZE) -> Path:
    """Makes an ext4 file system of `size` MiB in the file, `offset` bytes behind its start."""
    kind = () if "-t" in options else ("-t", "ext4")
    run("mke2fs", "-q", "-F", *kind, "-d", content, "-E", f"offset={offset}", *options, path, f"{size}M")
    return path


def fat(path: Path, content: Path, *options: str, offset: int = 0, size: int = _SIZE) -> Path:
    """Makes a FAT file system of `size` MiB in the file, `offset` bytes behind its start."""
    with path.open("ab") as file:
        file.truncate(max(path.stat().st_size, offset + size * _MIB))
    run("mkfs.fat", *options, "--offset", str(offset // 512), path, str(size << 10))
    entries = sorted(content.iterdir())
    if entries:
        run("mcopy", "-s", "-i", f"{path}@@{offset}", *entries, "::")
    return path


def made_of(kind: str, path: Path, content: Path, *options: str) -> Path:
    """Makes a file system of that kind in the file; of squashfs the option is the compressor, or `plain`."""
    if kind == "squashfs":
        how = ("-noI", "-noD", "-noF", "-noX") if options == ("plain",) else ("-comp", *options)
        run("mksquashfs", content, path, "-quiet", "-no-progress", "-xattrs", "-mem", "64M", "-processors",
            "1", *how)  # fmt: skip
    elif kind == "erofs":
        run("mkfs.erofs", "--quiet", *options, path, content)
    elif kind == "btrfs":
        run("mkfs.btrfs", "--quiet", "--rootdir", content, "--shrink", *options, path)
    elif kind == "xfs":
        _make_xfs(path, content, *options)
    else:
        file_system(path, content, *options, size=64)
    return path


def _make_xfs(path: Path, content: Path, *options: str) -> None:
    """Makes XFS by mkfs.xfs and a prototype of the content (mkfs.xfs(8)), which has no attributes."""
    with path.open("wb") as file:
        file.truncate(48 * _MIB)
    prototype = path.with_suffix(".prototype")
    prototype.write_text("\n".join(["/boot", "0 0", *_prototype(content, ""), ""]))
    small = ("TEST_DIR=x", "TEST_DEV=x", "QA_CHECK_FS=x")  # otherwise it makes none below 300 MiB
    run("env", *small, "mkfs.xfs", "-q", *options, "-p", prototype, path)


def _prototype(path: Path, name: str) -> Iterator[str]:
    status = path.lstat()
    kind = "d" if path.is_dir() and not path.is_symlink() else "l" if path.is_symlink() else "-"
    bits = f"{'u' if status.st_mode & 0o4000 else '-'}{'g' if status.st_mode & 0o2000 else '-'}"
    behind = path.readlink() if kind == "l" else "" if kind == "d" else path
    yield f"{name} {kind}{bits}{status.st_mode & 0o777:03o} {status.st_uid} {status.st_gid} {behind}".strip()
    if kind == "d":
        for below in sorted(path.iterdir()):
            yield from _prototype(below, below.name)
        yield "$"


def disk(path: Path, *, root: Path, boot: Path | None = None, label: str = "gpt",
         options: tuple[str, ...] = ()) -> Path:
    """Makes a raw disk: the first partition for /boot, the second for the root file system."""
    with path.open("wb") as file:
        file.truncate((_ROOT + _SIZE + 2) * _MIB)
    rows = [f"start={start * 2048}, size={_SIZE * 2048}" for start in (_BOOT, _ROOT)]
    run("sfdisk", "--quiet", path, given="\n".join([f"label: {label}", *rows, ""]))
    if boot:
        file_system(path, boot, "-L", "boot", offset=_BOOT * _MIB)
    return file_system(path, root, *options, offset=_ROOT * _MIB)


def root_partition(disk: Path) -> bytes:
    """Returns the bytes of the second partition."""
    return disk.read_bytes()[_ROOT * _MIB:(_ROOT + _SIZE) * _MIB]


def qcow2(raw: Path, *options: str) -> Path:
    """Returns a qcow2 file beside the raw one, with the same content."""
    path = raw.with_suffix(".qcow2")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
    return path


def converted(raw: Path, form: DiskFormat, place: Path, *options: str) -> Path:
    """Returns a file of that format in that directory, with the content of the raw one, as qemu-img makes it."""
    path = place / f"disk.{form}"
    subformat = ["-o", "subformat=fixed"] if form is DiskFormat.VHD_FIXED else []
    driver = "vpc" if form in (DiskFormat.VHD, DiskFormat.VHD_FIXED) else str(form)
    run("qemu-img", "convert", "-f", "raw", "-O", driver, *subformat, *options, raw, path)
    return path


def overlay_with(path: Path, difference: Path, above: Path) -> Path:
    """Creates an overlay without a backing file that turns the raw disk `above` into `difference`."""
    size, block = above.stat().st_size, 65536
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(size + _MIB))
    old, new = above.read_bytes(), difference.read_bytes()
    part = path.with_suffix(".part")
    for start in range(0, size, block):
        if (data := new[start:start + block]) != old[start:start + block]:
            part.write_bytes(data)
            run("qemu-io", "-f", "qcow2", "-c", f"write -q -s {part} {start} {len(data)}", path)
    return path
