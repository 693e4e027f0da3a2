"""ostree deployments: which exist, which is booted, and how another one is pulled, deployed and rolled back."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from lifsea_testbed.errors import GuestFailure
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import CommandResult, Shell

#: The repository of a running system.
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

# Compares /usr, including all that is mounted over it, with the commit.
_COMPARE = """
point=$(mktemp -d /run/lifsea-testbed-compare.XXXXXX)
trap 'umount "$point/usr"; rmdir "$point/usr" "$point"' EXIT
mkdir "$point/usr"
mount --rbind /usr "$point/usr" && ostree diff {commit} "$point"
"""

_MISSING_DEFAULTS = """
cd /usr/etc 2>/dev/null || exit 0
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


class Deployments:
    """The ostree deployments of a system, and its repository."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def all(self) -> list[Deployment]:
        """Returns the deployments in boot order, at least one, the one that boots next first.

        Raises:
            AnswerUnreadable: ostree shows none.
        """
        answer = self._shell.run("ostree admin status")
        with readable(answer, expected="a line `* OS COMMIT.SERIAL` for each deployment"):
            return parse_status(answer.stdout)

    def booted(self) -> Deployment:
        """Returns the deployment that runs.

        Raises:
            GuestFailure: ostree does not know the running system.
        """
        running = [deployment for deployment in self.all() if deployment.booted]
        if not running:
            raise GuestFailure("ostree admin status shows no booted deployment",
                               expected="a system that was booted from one")  # fmt: skip
        return running[0]

    def repository_damage(self) -> list[str]:
        """Returns the errors that `ostree fsck` reports; none for a sound repository."""
        check = self._shell.run("ostree fsck --quiet", check=False, within=_WHOLE_IMAGE)
        return [] if check.ok else [*check.lines, *split_lines(check.stderr)]

    def changed_files(self) -> list[str]:
        """Returns the files below /usr that differ from the booted commit's.

        A for an added file, M for one that changed in any byte or mode bit, D for a missing one.
        """
        script = _COMPARE.format(commit=shlex.quote(self.booted().commit))
        return parse_changes(self._shell.run(script, within=_WHOLE_IMAGE).stdout)

    def missing_defaults(self) -> list[str]:
        """Returns the files of the image's /usr/etc, if it has one, that /etc lacks: those that a merge left out."""
        return self._shell.run(_MISSING_DEFAULTS).lines

    def metadata_strings(self, commit: str, key: str, repository: str = REPOSITORY) -> list[str]:
        """Returns the string or strings that a commit's metadata have under that key; none if they lack it."""
        script = f"ostree --repo={repository} show --print-metadata-key={key} {shlex.quote(commit)}"
        return re.findall(r"'([^']*)'", self._shell.run(script, check=False).stdout)

    def pull_from_disk(self, device: str, repository: str = REPOSITORY) -> str:
        """Pulls the image that is deployed on another disk into a repository; returns its commit."""
        script = _PULL.format(device=device, repository=repository)
        answer = self._shell.run(script, within=_WHOLE_IMAGE)
        with readable(answer, expected="a commit: 64 hexadecimal digits"):
            return parse_commit(answer.stdout)

    def deploy(self, os: str, commit: str) -> CommandResult:
        """Makes that commit the one that boots next; the running one stays as the second."""
        script = f"ostree admin deploy --os={shlex.quote(os)} {shlex.quote(commit)}"
        return self._shell.run(script, within=_WHOLE_IMAGE)

    def stage(self, os: str, commit: str) -> None:
        """Stages that commit: the shutdown of the machine makes it the one that boots next."""
        script = f"ostree admin deploy --stage --os={shlex.quote(os)} {shlex.quote(commit)}"
        self._shell.run(script, within=_WHOLE_IMAGE)

    def roll_back(self) -> None:
        """Makes the deployment that is second in boot order the first, as it was before an upgrade."""
        self._shell.run("ostree admin set-default 1", within=_WHOLE_IMAGE)


def parse_status(text: str) -> list[Deployment]:
    """Reads the output of `ostree admin status`; raises ValueError where it shows no deployment."""
    found: list[Deployment] = []
    for line in split_lines(text):
        if heading := _HEADING.match(line):
            found.append(Deployment(os=heading["os"], commit=heading["commit"], serial=int(heading["serial"]),
                                    booted=heading["booted"] == "*"))  # fmt: skip
        elif found and (detail := re.match(r"\s+(Version|origin refspec): (.*)", line)):
            field = "version" if detail[1] == "Version" else "origin"
            found[-1] = Deployment(**{**found[-1].__dict__, field: detail[2]})
    if not found:
        raise ValueError("no deployment")
    return found


def parse_commit(text: str) -> str:
    """Reads a commit on a line of its own; raises ValueError where there is none."""
    if re.fullmatch(r"[0-9a-f]{64}\n?", text) is None:
        raise ValueError("no commit")
    return text.strip()


def parse_changes(text: str) -> list[str]:
    """Reads the output of `ostree diff`, which omits the first slash of added files; leaves out paths outside /usr."""
    rows = (line.split(maxsplit=1) for line in split_lines(text))
    changes = ((row[0], f"/{row[1].removeprefix('/')}") for row in rows if len(row) == 2)
    return [f"{kind} {path}" for kind, path in changes if path.startswith("/usr/")]
