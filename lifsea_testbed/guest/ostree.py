"""ostree deployments: which there are, which is booted, and how another one gets there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from lifsea_testbed.errors import GuestFailure
from lifsea_testbed.support.protocols import CommandResult, Shell

#: The repository of a system that runs.
REPOSITORY = "/ostree/repo"
#: How long ostree may take to pull or deploy a whole image on real hardware (seconds).
_WHOLE_IMAGE = 120.0
_HEADING = re.compile(r"^(?P<booted>[* ]) (?P<os>\S+) (?P<commit>[0-9a-f]{64})\.(?P<serial>\d+)(?: \((?P<note>.*)\))?$")
# Mounts the partition that holds an ostree repository and pulls the commit of its first deployment from there.
_PULL = """
set -eu
point=$(mktemp -d /run/lifsea-testbed-image.XXXXXX)
trap 'umount "$point" 2>/dev/null || :; rmdir "$point"' EXIT
for partition in /dev/{device}?*; do
    mount -o ro,noload "$partition" "$point" 2>/dev/null || mount -o ro "$partition" "$point" 2>/dev/null || continue
    [ -d "$point/ostree/repo/objects" ] && break
    umount "$point"
done
set -- "$point"/ostree/deploy/*/deploy/*.0
[ -d "$1" ] || {{ echo "no ostree deployment on /dev/{device}" >&2; exit 1; }}
commit=${{1##*/}}
commit=${{commit%.0}}
ostree pull-local --repo={repository} "$point/ostree/repo" "$commit" >&2
echo "$commit"
"""

# What lies at /usr, with whatever is mounted over it, beside what the commit has there.
_COMPARE = """
point=$(mktemp -d /run/lifsea-testbed-compare.XXXXXX)
trap 'umount "$point/usr"; rmdir "$point/usr" "$point"' EXIT
mkdir "$point/usr"
mount --rbind /usr "$point/usr" && ostree diff {commit} "$point"
"""

_MISSING_DEFAULTS = """
cd /usr/etc || exit 1
find . -type f | while IFS= read -r file; do [ -e "/etc/$file" ] || echo "$file"; done
"""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A deployed image: its operating system's name, its commit, its version if the commit has one."""

    os: str
    commit: str
    serial: int
    booted: bool
    version: str = ""
    origin: str = ""


def deployments(shell: Shell) -> list[Deployment]:
    """Returns the deployments in boot order, the one that boots next first."""
    return parse_status(shell.run("ostree admin status").stdout)


def parse_status(text: str) -> list[Deployment]:
    """Reads what `ostree admin status` prints."""
    found: list[Deployment] = []
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            found.append(Deployment(os=heading["os"], commit=heading["commit"], serial=int(heading["serial"]),
                                    booted=heading["booted"] == "*"))  # fmt: skip
        elif found and (detail := re.match(r"\s+(Version|origin refspec): (.*)", line)):
            field = "version" if detail[1] == "Version" else "origin"
            found[-1] = Deployment(**{**found[-1].__dict__, field: detail[2]})
    return found


def booted(shell: Shell) -> Deployment:
    """Returns the deployment that runs.

    Raises:
        GuestFailure: ostree does not know the running system.
    """
    running = [deployment for deployment in deployments(shell) if deployment.booted]
    if not running:
        raise GuestFailure("ostree says that no deployment is booted")
    return running[0]


def damage(shell: Shell) -> list[str]:
    """Returns what `ostree fsck` finds wrong; nothing for a sound repository."""
    check = shell.run("ostree fsck --quiet", check=False, within=_WHOLE_IMAGE)
    return [] if check.ok else [*check.lines, *check.stderr.splitlines()]


def changed_files(shell: Shell, commit: str) -> list[str]:
    """Returns the files below /usr that are not the commit's: A added, M changed in any byte or bit, D missing."""
    compared = shell.run(_COMPARE.format(commit=shlex.quote(commit)), within=_WHOLE_IMAGE)
    return parse_changes(compared.stdout)


def parse_changes(text: str) -> list[str]:
    """Reads what `ostree diff` prints, added files without the first slash; what is outside /usr is left out."""
    rows = (line.split(maxsplit=1) for line in text.splitlines())
    changes = ((row[0], f"/{row[1].removeprefix('/')}") for row in rows if len(row) == 2)
    return [f"{kind} {path}" for kind, path in changes if path.startswith("/usr/")]


def pull_from_disk(shell: Shell, device: str, repository: str = REPOSITORY) -> str:
    """Pulls the image that is deployed on another disk into a repository; returns its commit."""
    return shell.run(_PULL.format(device=device, repository=repository), within=_WHOLE_IMAGE).stdout.strip()


def words_of(shell: Shell, commit: str, key: str, repository: str = REPOSITORY) -> list[str]:
    """Returns what a commit's metadata have under that key, a string or several; nothing if they have not."""
    said = shell.run(f"ostree --repo={repository} show --print-metadata-key={key} {shlex.quote(commit)}", check=False)
    return re.findall(r"'([^']*)'", said.stdout)


def deploy(shell: Shell, os: str, commit: str) -> CommandResult:
    """Makes that commit the one that boots next; the running one stays as the second."""
    return shell.run(f"ostree admin deploy --os={shlex.quote(os)} {shlex.quote(commit)}", within=_WHOLE_IMAGE)


def stage(shell: Shell, os: str, commit: str) -> None:
    """Has that commit made the one that boots next when the machine is shut down."""
    shell.run(f"ostree admin deploy --stage --os={shlex.quote(os)} {shlex.quote(commit)}", within=_WHOLE_IMAGE)


def roll_back(shell: Shell) -> None:
    """Makes the deployment that is second in boot order the first, as it was before an upgrade."""
    shell.run("ostree admin set-default 1", within=_WHOLE_IMAGE)


def defaults_missing(shell: Shell) -> list[str]:
    """Returns the files of the image's /usr/etc that /etc lacks: what a merge of the two left out."""
    return shell.run(_MISSING_DEFAULTS).lines
