"""The system that a disk boots next: its root file system, with the file systems that it mounts."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from lifsea_testbed.disk.boot_choice import BootChoice, is_free, next_entry, ordered_slot, prioritised
from lifsea_testbed.disk.filesystem import Tree, root_of
from lifsea_testbed.disk.mounts import Volume, directory, mounted, named, normal_name
from lifsea_testbed.disk.partitions import BIOS_BOOT, ROOT_X86_64, Partition, partitions
from lifsea_testbed.disk.probe import file_system, is_blank, unread_kind
from lifsea_testbed.disk.source import ByteSource
from lifsea_testbed.errors import DiskDamaged, NotJudged, Reason

_STATEROOT = re.compile(r"^/ostree/deploy/([^/]+)/deploy/[^/]+$")
_RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release", "/etc/system-release")
#: The root hash of dm-verity: a SHA-256.
_ROOT_HASH = re.compile(r"[0-9a-fA-F]{64}")
#: Flatcar's root partition, and its kinds of /usr, which the root's files lie beside.
_COREOS_ROOT, _COREOS_USR = "3884dd41-8582-4404-b9a8-e9b84f2df50e", "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6"


@dataclass(frozen=True, kw_only=True)
class OsRoot:
    """The root file system that boots next: its files, the number of its partition, and those of others with a system.

    Where nothing on the disk says which of two slots boots, it is the first that holds an os-release.
    """

    tree: Tree
    partition: int
    others: tuple[int, ...] = ()


def os_root(disk: ByteSource) -> OsRoot:
    """Returns the root file system that boots next, as the running system sees it.

    On an ostree system it is the deployment of the first boot entry, with its /var, /boot and /sysroot; on other
    systems the partition that the first boot entry names (root=, roothash=), or the one that priorities or RAUC's order
    of slots choose, or the root partition. All have the file systems of the same disk that fstab, units or their
    partitions' types mount; those that nothing mounts are beside the root (Tree.beside), and `unread` names what is not
    supported or not on the disk.

    Raises:
        DiskDamaged: a table is inconsistent, or a boot entry names a deployment that does not exist.
        NotJudged: no root file system is found, or its file system is not supported.
    """
    found = partitions(disk)
    volumes, unread = _volumes(found)
    choice = next_entry(volumes)
    if choice and choice.entry.deployment:
        return _deployed(volumes, choice, unread)
    return _plain(found, volumes, choice, unread)


def _volumes(found: list[Partition]) -> tuple[list[Volume], list[str]]:
    """The supported file systems, and the reasons why other partitions, which may hold a root as well, are not read."""
    volumes: list[Volume] = []
    unread: list[str] = []
    for partition in found:
        try:
            if system := file_system(partition.content):
                volumes.append(Volume(partition=partition, file_system=system, tree=Tree(root_of(system))))
            elif partition.kind != BIOS_BOOT and not is_blank(partition.content):
                unread.append(f"partition {partition.number} holds {unread_kind(partition.content)}")
        except NotJudged as error:
            unread.append(f"partition {partition.number}: {error}")
    return volumes, unread


def _deployed(volumes: list[Volume], choice: BootChoice, unread: list[str]) -> OsRoot:
    boot, path = choice.volume, choice.entry.deployment
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


def _plain(found: Sequence[Partition], volumes: list[Volume], choice: BootChoice | None, unread: list[str]) -> OsRoot:
    names = named(volumes)
    systems = sorted(_with_system(volumes), key=lambda volume: (
        is_free(volume.partition.label), volume.partition.kind != ROOT_X86_64))  # fmt: skip
    by_priority = _by_priority(found, volumes, unread)
    usr = _of_hash(names, choice, "usrhash=") or _of_option(names, choice, "mount.usr=")
    if by_priority and by_priority.partition.kind == _COREOS_USR:
        usr, by_priority = usr or by_priority, None
    root = _of_hash(names, choice, "roothash=") or _of_option(names, choice, "root=") or by_priority \
        or ordered_slot(volumes, systems) or _beside_usr(volumes, usr)  # fmt: skip
    if root is None:
        root = _only(systems, choice, unread)
    tree = _tree(root, choice)
    if usr and usr is not root:
        tree = tree.mounted({PurePosixPath("/usr"): root_of(usr.file_system)})
    return _root(_with_others(tree, [root, *([usr] if usr else [])], volumes, unread), root, systems)


def _tree(root: Volume, choice: BootChoice | None) -> Tree:
    """The files of a root; of btrfs those of the subvolume that the kernel's command line names."""
    flags = choice.entry.option("rootflags=") if choice else ""
    place = directory(root, flags.split(","))
    if place is None:
        raise NotJudged(f"the root on partition {root.partition.number} has not what rootflags={flags} names",
                        Reason.IMAGE)
    return Tree(place) if place.inode.number != root.file_system.root else root.tree


def _of_hash(names: Mapping[str, Volume], choice: BootChoice | None, option: str) -> Volume | None:
    """The partition whose identifier is the first half of a root hash (Discoverable Partitions Specification)."""
    value = choice.entry.option(option) if choice else ""
    return names.get(f"PARTUUID={uuid.UUID(hex=value[:32])}") if _ROOT_HASH.fullmatch(value) else None


def _of_option(names: Mapping[str, Volume], choice: BootChoice | None, option: str) -> Volume | None:
    return names.get(normal_name(choice.entry.option(option))) if choice else None


def _by_priority(found: Sequence[Partition], volumes: Sequence[Volume], unread: Sequence[str]) -> Volume | None:
    number = prioritised(found)
    if number is None:
        return None
    for volume in volumes:
        if volume.partition.number == number:
            return volume
    raise NotJudged("; ".join([f"partition {number} boots next by its priority, and is not read offline", *unread]),
                    Reason.IMAGE)


def _beside_usr(volumes: Sequence[Volume], usr: Volume | None) -> Volume | None:
    """The root that belongs to a /usr of its own partition, which may hold nothing before the first boot."""
    kinds = (_COREOS_ROOT, ROOT_X86_64)
    return next((volume for volume in volumes if volume.partition.kind in kinds), None) if usr else None


def _only(systems: Sequence[Volume], choice: BootChoice | None, unread: Sequence[str]) -> Volume:
    """The first of the systems; a boot entry that names a root which is not read leaves no choice between several."""
    if not systems:
        raise NotJudged("; ".join(["no partition that is read offline holds a root file system", *unread]),
                        Reason.IMAGE)
    wanted = choice.entry.option("roothash=") or choice.entry.option("root=") if choice else ""
    if len(systems) > 1 and wanted and choice:
        raise NotJudged("; ".join([f"the boot entry {choice.entry.name} names the root {wanted}, which no partition "
                                   "that is read offline is", *unread]), Reason.IMAGE)
    return systems[0]


def _with_others(system: Tree, shown: list[Volume], volumes: list[Volume], unread: list[str]) -> Tree:
    """The system with the file systems that it mounts beside those that are `shown` in it, and with all others.

    What is mounted nowhere is found below /partition-N: another system on the same disk, or a place to keep things in.
    """
    mounts = mounted(system, volumes)
    roots = [root_of(volume.file_system) for volume in shown]
    loose = [volume for volume in volumes if all(volume is not other for other in (*shown, *mounts.volumes))]
    return system.mounted({path: place for path, place in mounts.places.items() if place not in roots}).beside(
        {f"partition-{volume.partition.number}": root_of(volume.file_system) for volume in loose},
        [*unread, *mounts.missing])
