"""The packages of the image, from the database that it carries."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.guest.files import Files
from lifsea_testbed.support.protocols import Shell

DPKG_DATABASES = ("/var/lib/dpkg/status", "/usr/lib/sysimage/dpkg/status")
#: The name under which rpm keeps each public key that was imported (rpmkeys(8)).
_PUBLIC_KEY = "gpg-pubkey"
_RPM_DATABASES = ("/var/lib/rpm", "/usr/share/rpm", "/usr/lib/sysimage/rpm")


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    """An installed package."""

    name: str
    version: str

    def __str__(self) -> str:
        """Its name and its version."""
        return f"{self.name} {self.version}"


class Packages:
    """The installed packages; `databases` are the dpkg status files that the profile names."""

    def __init__(self, shell: Shell, databases: Sequence[str] = ()) -> None:
        self._shell = shell
        self._databases = databases

    def installed(self) -> list[Package]:
        """Returns the installed packages, sorted.

        Reads the first dpkg status file that exists, those of the profile first; otherwise runs rpm.

        Raises:
            NotJudged: the image carries no database that can be read.
        """
        candidates = shlex.join([*self._databases, *DPKG_DATABASES])
        status = self._shell.run(f"for file in {candidates}; do [ -s $file ] && exec cat $file; done; exit 1",
                                 check=False)  # fmt: skip
        if status.ok:
            with readable(status, expected="paragraphs with Package and Version (deb822(5))"):
                return parse_dpkg_status(status.stdout)
        listed = self._shell.run("command -v rpm >/dev/null && rpm -qa --qf '%{NAME} %{EVR}\\n'", check=False)
        if listed.ok:
            with readable(listed, expected="a name and a version on each line"):
                return sorted(Package(name=name, version=version) for name, version in map(str.split, listed.lines)
                              if is_package(name))  # fmt: skip
        raise NotJudged("the image carries neither a dpkg status file nor rpm", Reason.IMAGE)

    def named(self, patterns: Iterable[str]) -> list[str]:
        """Returns the names of the installed packages that one of the regular expressions matches as a whole, sorted.

        Raises:
            NotJudged: the image carries no database that can be read.
        """
        expression = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
        return sorted({package.name for package in self.installed() if expression.fullmatch(package.name)})

    def writable_databases(self) -> list[str]:
        """Returns the directories of package databases in which root could record an installed package."""
        return Files(self._shell).accepted_writes(database_directories(self._databases))


def database_directories(databases: Sequence[str]) -> list[str]:
    """Returns the directories in which an installed package would have to be recorded."""
    return [*(file.rpartition("/")[0] for file in (*databases, *DPKG_DATABASES)), *_RPM_DATABASES]


def is_package(name: str) -> bool:
    """Returns whether an entry of rpm's database is a package: public keys, which check signatures, are not."""
    return name != _PUBLIC_KEY


def parse_dpkg_status(text: str) -> list[Package]:
    """Returns the packages that a dpkg status file calls installed, sorted (format: deb822(5), dpkg(1)).

    Raises:
        ValueError: a paragraph is not that of a package.
    """
    paragraphs = (Parser().parsestr(paragraph) for paragraph in text.split("\n\n") if paragraph.strip())
    return sorted(
        Package(name=_field(fields, "Package"), version=_field(fields, "Version"))
        for fields in paragraphs
        if str(fields.get("Status", "install ok installed")).endswith(" installed")
    )


def _field(fields: Message, name: str) -> str:
    if name not in fields:
        raise ValueError(f"a paragraph without {name}")
    return str(fields[name])
