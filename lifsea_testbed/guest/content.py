"""What an image holds: the questions that a running machine answers, and its disk as well."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Protocol

from lifsea_testbed.guest import accounts, files, kernel, packages, system, units
from lifsea_testbed.support.protocols import Shell


class Content(Protocol):
    """Something that knows what an image holds."""

    def os_release(self) -> dict[str, str]:
        """Returns the fields of os-release(5), unquoted."""
        ...

    def has_posix_shell(self) -> bool:
        """Tells whether there is a /bin/sh."""
        ...

    def packages(self, databases: Iterable[str]) -> list[packages.Package]:
        """Returns the installed packages, sorted; the dpkg status files given come first."""
        ...

    def executables(self) -> list[PurePosixPath]:
        """Returns every executable regular file of the system, sorted."""
        ...

    def executables_holding(self, marks: Iterable[str]) -> list[str]:
        """Returns the executables in whose content one of the marks occurs, sorted."""
        ...

    def setuid_files(self) -> list[PurePosixPath]:
        """Returns every regular file that gives privileges to whoever starts it, sorted."""
        ...

    def link_target(self, path: str) -> str:
        """Returns the path that this one leads to when every link is followed."""
        ...

    def units_named(self, pattern: str) -> list[str]:
        """Returns the unit files whose whole name matches the regular expression."""
        ...

    def initramfs_signs(self) -> list[str]:
        """Returns every sign of an initramfs."""
        ...

    def accounts_with_password(self) -> list[str]:
        """Returns the accounts whose password field is empty or holds a hash."""
        ...


class Asked:
    """The content as a running machine tells it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def os_release(self) -> dict[str, str]:
        """Returns what /etc/os-release says."""
        return system.os_release(self._shell)

    def has_posix_shell(self) -> bool:
        """Tells whether /bin/sh runs a script."""
        return system.has_posix_shell(self._shell)

    def packages(self, databases: Iterable[str]) -> list[packages.Package]:
        """Returns what the dpkg status file, or rpm, lists."""
        return packages.packages(self._shell, databases)

    def executables(self) -> list[PurePosixPath]:
        """Returns what find finds on every mount."""
        return files.executables(self._shell)

    def executables_holding(self, marks: Iterable[str]) -> list[str]:
        """Returns what grep finds in them."""
        return files.holding(self._shell, marks)

    def setuid_files(self) -> list[PurePosixPath]:
        """Returns what find and getcap find on every mount."""
        return files.setuid(self._shell)

    def link_target(self, path: str) -> str:
        """Returns where readlink arrives."""
        return files.link_target(self._shell, path)

    def units_named(self, pattern: str) -> list[str]:
        """Returns the unit files that systemd lists."""
        return units.installed(self._shell, pattern)

    def initramfs_signs(self) -> list[str]:
        """Returns the boot entries that load one, and the messages of a kernel that unpacked one."""
        return kernel.initramfs_signs(self._shell)

    def accounts_with_password(self) -> list[str]:
        """Returns what /etc/shadow says."""
        return accounts.with_password(self._shell)
