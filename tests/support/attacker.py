"""A process of a machine's user that does on the host what a QEMU taken over by its guest might."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

SECRET = "only root reads this"
#: Names that a machine's directory, and QEMU's working directory, have or might have.
_NAMES = ("overlay.qcow2", "data.raw", "qemu.stderr", "memory", "state", "journal", "0.journal", "metadata", "services",
          "repository", "cluster", "writes.log", "reads")  # fmt: skip
#: Puts a link in place of each path, writes into each directory, and prints what it could do.
_SCRIPT = """
secret=$1; shift
for path; do
    ln -sfn "$secret" "$path" 2>/dev/null && [ -L "$path" ] && echo "a link at $path"
    [ -d "$path" ] && touch "$path/new" 2>/dev/null && echo "a file in $path"
    mv "$path" "$path.gone" 2>/dev/null && echo "moved $path"
    chmod 0777 "$path" 2>/dev/null && [ ! -S "$path" ] && echo "owns $path"
done
cat "$secret" 2>/dev/null
:
"""


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """Acts as that user, in the namespaces of the host: as if there were none. `secret` is a file of root's."""

    uid: int
    secret: Path

    def attack(self, *directories: Path) -> list[str]:
        """Attacks everything in these directories, and what might be in them; returns what it could do."""
        paths = {path for directory in directories for path in (directory, *directory.rglob("*"))}
        paths |= {path / name for path in list(paths) if path.is_dir() for name in _NAMES}
        command = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", "--", "sh", "-c",
                   _SCRIPT, "sh", str(self.secret), *map(str, sorted(paths))]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.splitlines()

    def secret_is_untouched(self) -> bool:
        """Whether the secret is what it was, and nobody's but root's."""
        status = self.secret.stat()
        return self.secret.read_text("utf-8") == SECRET and (status.st_uid, status.st_mode & 0o777) == (0, 0o600)


def secret(place: Path) -> Path:
    """Makes the secret."""
    path = place / "secret"
    path.touch(mode=0o600)
    path.write_text(SECRET, "utf-8")
    return path


def as_ordinary_user(script: str, *arguments: str) -> list[str]:
    """The command that runs a script of Python as a user who is not root, wherever this Python is installed."""
    python, places = Path(sys.executable), {Path(sys.base_prefix), ROOT}
    hidden = [place for place in sorted(places) if place.is_relative_to("/root")]
    shown = ["--tmpfs", "/root", "--chmod", "0755", "/root"] if hidden else []
    for place in hidden:
        shown += [word for above in reversed(place.parents[:-1]) for word in ("--dir", str(above))]
        shown += ["--ro-bind", str(place), str(place)]
    return ["bwrap", "--dev-bind", "/", "/", *shown, "--", "setpriv", "--reuid", "1000", "--regid", "1000",
            "--clear-groups", "--", str(python), "-c", script, *arguments]  # fmt: skip
