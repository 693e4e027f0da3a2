"""Confinement: QEMU runs untrusted images, so it gets no unneeded privilege and is killed when its parent ends."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_NOBODY = 65534
#: Detects a parent that ended before PR_SET_PDEATHSIG was set: then the process has another parent.
_WITH_PARENT = 'test "$PPID" = "$0" && exec "$@"; echo "started by process $0, which is gone" >&2; exit 1'


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """The user and group that QEMU runs as, and its supplementary groups (the group of a device)."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def admit(self, path: Path) -> None:
        """Makes the confined user the owner of a file or directory."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)

    def wrap(self, command: list[str]) -> list[str]:
        """Returns the command, run without new privileges and killed when the thread that starts it ends."""
        prefix = ["setpriv", "--pdeathsig", "KILL", "--no-new-privs"]
        if os.geteuid() == 0:
            groups = ["--groups", ",".join(map(str, self.groups))] if self.groups else ["--clear-groups"]
            prefix += ["--reuid", str(self.uid), "--regid", str(self.gid), *groups, "--bounding-set=-all"]
        return [*prefix, "--", "sh", "-c", _WITH_PARENT, str(os.getpid()), *command]


def confinement(device: Path | None = None) -> Confinement:
    """Returns the confinement for a QEMU that has to open that device node.

    Started by root, QEMU runs as `nobody`, with the device's group where that suffices; where only the owner may open
    the device, it runs as the owner, without any capability. Started by another user, it runs as that user.
    """
    if os.geteuid() != 0:
        return Confinement(uid=os.geteuid(), gid=os.getegid())
    status = device.stat() if device and device.exists() else None
    if status is None or status.st_mode & 0o006 == 0o006:
        return Confinement(uid=_NOBODY, gid=_NOBODY)
    if status.st_mode & 0o060 == 0o060 and status.st_gid:
        return Confinement(uid=_NOBODY, gid=_NOBODY, groups=(status.st_gid,))
    return Confinement(uid=status.st_uid, gid=_NOBODY)
