"""The file system of a built image, mounted read-only: scripts run in it as in its guest, without a boot."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lifsea_testbed.errors import CommandFailed
from lifsea_testbed.support.protocols import CommandResult
from tests.support import disks

# In a mount namespace of its own: the root partition at $2, its deployment at $3, with what a running system mounts.
_ENTER = """
set -e
mount -o loop,ro,noload,offset="$4" "$1" "$2"
mount --bind "$2"/ostree/deploy/*/deploy/*.0 "$3"
mount --bind "$2" "$3/sysroot"
mount --bind "$2"/ostree/deploy/*/var "$3/var"
mount --bind /dev "$3/dev"
mount -t proc proc "$3/proc"
mount -t tmpfs tmpfs "$3/run"
mount -t tmpfs tmpfs "$3/tmp"
exec chroot "$3" /bin/sh -c "$5"
"""


class MountedShell:
    """Runs scripts by the shell and the programs of an image, which is not booted; needs root."""

    def __init__(self, image: Path, place: Path) -> None:
        self._raw, self._disk, self._root = place / "disk.raw", place / "disk", place / "root"
        self._disk.mkdir()
        self._root.mkdir()
        disks.run("qemu-img", "convert", "-O", "raw", image, self._raw)
        table = json.loads(disks.run("sfdisk", "--json", self._raw))["partitiontable"]
        self._offset = max(int(row["start"]) for row in table["partitions"]) * int(table["sectorsize"])

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        script = command if isinstance(command, str) else shlex.join(command)
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(self._raw),
                 str(self._disk), str(self._root), str(self._offset), script]  # fmt: skip
        done = subprocess.run(words, input=input, capture_output=True, check=False,
                              env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        if check and done.returncode:
            raise CommandFailed(f"status {done.returncode} from: {script}", evidence=done.stderr.decode())
        return CommandResult(script=script, exit_status=done.returncode, output=done.stdout, errors=done.stderr,
                             duration=0.0)  # fmt: skip
