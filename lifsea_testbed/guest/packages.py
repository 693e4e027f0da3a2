"""The packages of the image, from whichever database it carries."""

from __future__ import annotations

import email
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged
from lifsea_testbed.support.protocols import Shell

DPKG_DATABASES = ("/var/lib/dpkg/status", "/usr/lib/sysimage/dpkg/status")
_RPM_DATABASES = ("/var/lib/rpm", "/usr/share/rpm", "/usr/lib/sysimage/rpm")


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    """An installed package."""

    name: str
    version: str


def packages(shell: Shell, databases: Iterable[str] = ()) -> list[Package]:
    """Returns the installed packages, sorted.

    Reads the first dpkg status file that exists, those of the profile first; otherwise asks rpm.

    Raises:
        NotJudged: the image carries no database that can be read.
    """
    candidates = shlex.join([*databases, *DPKG_DATABASES])
    status = shell.run(f"for file in {candidates}; do [ -s $file ] && exec cat $file; done; exit 1", check=False)
    if status.ok:
        return parse_dpkg_status(status.stdout)
    listed = shell.run("command -v rpm >/dev/null && rpm -qa --qf '%{NAME} %{EVR}\\n'", check=False)
    if listed.ok:
        return sorted(Package(name=name, version=version) for name, _, version in map(_split, listed.lines))
    raise NotJudged("the image carries neither a dpkg status file nor rpm")


def database_directories(databases: Iterable[str]) -> list[str]:
    """Returns the directories in which an installed package would have to be written down."""
    return [*(file.rpartition("/")[0] for file in (*databases, *DPKG_DATABASES)), *_RPM_DATABASES]


def parse_dpkg_status(text: str) -> list[Package]:
    """Returns the packages that a dpkg status file calls installed, sorted (format: deb822(5), dpkg(1))."""
    paragraphs = (email.message_from_string(paragraph) for paragraph in text.split("\n\n") if paragraph.strip())
    return sorted(
        Package(name=str(fields["Package"]), version=str(fields["Version"]))
        for fields in paragraphs
        if str(fields.get("Status", "install ok installed")).endswith(" installed")
    )


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(" ")
