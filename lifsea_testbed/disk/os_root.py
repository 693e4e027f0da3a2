"""The system that a disk boots next: its root file system, with the file systems that it mounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from lifsea_testbed.disk.ext4 import Ext4, is_ext4
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.mounts import Volume, mounted, text
from lifsea_testbed.disk.partitions import NO_SYSTEM, ROOT_X86_64, Partition, partitions
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason
from lifsea_testbed.support.lines import split_lines

_OTHERS = {0: {b"XFSB": "XFS", b"hsqs": "squashfs", b"LUKS\xba\xbe": "LUKS"}, 512: {b"LABELONE": "LVM"},
           1024: {b"\xe2\xe1\xf5\xe0": "EROFS"}, 65600: {b"_BHRfS_M": "btrfs"}}  # fmt: skip
_ARGUMENT = "ostree="
_STATEROOT = re.compile(r"^/ostree/deploy/([^/]+)/deploy/[^/]+$")
_RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release", "/etc/system-release")
#: The bytes at the start of a partition that tell whether it holds anything.
_LOOKED_AT = 128 << 10


@dataclass(frozen=True, kw_only=True)
class OsRoot:
    """The root file system that boots next: its files, the number of its partition, and those of others with a system.

    Where no boot entry names one, as on a disk with two slots, it is the first that holds an os-release.
    """

    tree: Tree
    partition: int
    others: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BootEntry:
    """A boot entry: its file, its version, and the path of the ostree deployment that it boots, if any."""

    name: str = ""
    version: int = 0
    deployment: str = ""

    def rank(self) -> tuple[int, str]:
        """The sort key: the entry with the highest rank boots first; ostree numbers its entries by version."""
        return self.version, self.name


def os_root(disk: ByteSource) -> OsRoot:
    """Returns the root file system that boots next, as the running system sees it.

    On an ostree system it is the deployment of the first boot entry, with its /var, /boot and /sysroot; on other
    systems the root partition. Both have the file systems of the same disk that fstab, units or their partitions' types
    mount; those that nothing mounts are beside the root (Tree.beside), and `unread` names what is not supported.

    Raises:
        DiskDamaged: a table is inconsistent, or a boot entry names a deployment that does not exist.
        NotJudged: no root file system is found, or its file system is not supported.
    """
    volumes, unread = _volumes(partitions(disk))
    for boot in volumes:
        if path := _deployment(boot.tree):
            return _deployed(volumes, boot, path, unread)
    return _plain(volumes, unread)


def _volumes(found: list[Partition]) -> tuple[list[Volume], list[str]]:
    """The supported file systems, and the reasons why other partitions, which may hold a root as well, are not read."""
    volumes: list[Volume] = []
    unread: list[str] = []
    for partition in found:
        try:
            if is_ext4(partition.content):
                volumes.append(_volume(partition))
            elif partition.kind not in NO_SYSTEM and not _is_blank(partition.content):
                unread.append(f"partition {partition.number} holds {_kind(partition.content)}")
        except NotJudged as error:
            unread.append(f"partition {partition.number}: {error}")
    return volumes, unread


def _volume(partition: Partition) -> Volume:
    file_system = Ext4(partition.content)
    return Volume(partition=partition, file_system=file_system, tree=Tree(root_of(file_system)))


def _deployment(boot: Tree) -> str:
    """The `ostree=` argument of the entry that boots first: the one with the highest version."""
    paths = [*boot.glob("/loader/entries/*.conf"), *boot.glob("/boot/loader/entries/*.conf")]
    entries = [parse_entry(path.name, text(boot, path) or "") for path in paths]
    return max((entry for entry in entries if entry.deployment), key=BootEntry.rank, default=BootEntry()).deployment


def parse_entry(name: str, text: str) -> BootEntry:
    """Parses a boot entry (Boot Loader Specification, type 1)."""
    fields = {words[0]: words[1:] for line in split_lines(text) if (words := line.split())}
    deployments = [word.removeprefix(_ARGUMENT) for word in fields.get("options", []) if word.startswith(_ARGUMENT)]
    version = "".join(fields.get("version", []))
    return BootEntry(name=name, version=int(version) if version.isdecimal() and len(version) < 10 else 0,
                     deployment=deployments[0] if deployments else "")  # fmt: skip


def _deployed(volumes: list[Volume], boot: Volume, path: str, unread: list[str]) -> OsRoot:
    for volume in volumes:
        deployment = volume.tree.find(path)
        if deployment and deployment.is_directory:
            break
    else:
        missing = f"a boot entry names the deployment {path}, which no partition holds"
        if unread:
            raise NotJudged("; ".join([f"{missing} that is read offline", *unread]), Reason.IMAGE)
        raise DiskDamaged(missing, hint="run ostree admin status in a system that boots")
    real = volume.tree.real_path(path)
    stateroot = _STATEROOT.match(str(real))
    var = volume.tree.find(f"/ostree/deploy/{stateroot[1]}/var") if stateroot else None
    boots = boot.tree.find("/boot" if boot is volume else "/")
    places = {"/sysroot": root_of(volume.file_system), "/boot": boots, "/var": var}
    system = Tree(deployment, {PurePosixPath(at): place for at, place in places.items() if place})
    return _root(_with_others(system, [volume, boot], volumes, unread), volume, _with_system(volumes))


def _with_system(volumes: list[Volume]) -> list[Volume]:
    return [volume for volume in volumes if any(map(volume.tree.find, _RELEASE_FILES))]


def _root(tree: Tree, volume: Volume, roots: list[Volume]) -> OsRoot:
    return OsRoot(tree=tree, partition=volume.partition.number,
                  others=tuple(other.partition.number for other in roots if other is not volume))  # fmt: skip


def _plain(volumes: list[Volume], unread: list[str]) -> OsRoot:
    roots = _with_system(volumes)
    roots.sort(key=lambda volume: volume.partition.kind != ROOT_X86_64)
    if not roots:
        raise NotJudged("; ".join(["no partition that is read offline holds a root file system", *unread]),
                        Reason.IMAGE)
    root = roots[0]
    return _root(_with_others(root.tree, [root], volumes, unread), root, roots)


def _with_others(system: Tree, shown: list[Volume], volumes: list[Volume], unread: list[str]) -> Tree:
    """The system with the file systems that it mounts beside those that are `shown` in it, and with all others.

    What is mounted nowhere is found below /partition-N: another system on the same disk, or a place to keep things in.
    """
    others = [volume for volume in volumes if all(volume is not one for one in shown)]
    mounts = mounted(system, others)
    loose = [volume for volume in others if all(volume is not one for one in mounts.values())]
    return system.mounted({path: root_of(volume.file_system) for path, volume in mounts.items()}).beside(
        {f"partition-{volume.partition.number}": root_of(volume.file_system) for volume in loose}, unread)


def _kind(content: ByteSource) -> str:
    found = [name for place, kinds in _OTHERS.items() for magic, name in kinds.items()
             if content.size >= place + len(magic) and content.read_at(place, len(magic)) == magic]  # fmt: skip
    return found[0] if found else "an unknown file system"


def _is_blank(content: ByteSource) -> bool:
    """Whether a partition holds nothing, or swap space (mkswap(8))."""
    start = content.read_at(0, min(content.size, _LOOKED_AT))
    return not any(start) or start[4086:4096] in (b"SWAPSPACE2", b"SWAP-SPACE")
