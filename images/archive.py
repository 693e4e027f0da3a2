"""Packages of any Debian suite, by a private apt that does not touch the host's own."""

from __future__ import annotations

import re
from pathlib import Path

from images.command import run
from images.errors import BuildError
from images.fetched import note

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_DIRECTORIES = ("lists/partial", "cache/archives/partial", "state", "etc/preferences.d", "etc/sources.list.d")


def mirror() -> str:
    """Returns the address of the Debian mirror that the host installs from.

    Raises:
        BuildError: apt has no package lists yet.
    """
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    found = [address for address, release in map(str.split, listed.splitlines()) if release == _host_suite()]
    if not found:
        raise BuildError(f"apt knows no mirror of {_host_suite()}; run apt-get update")
    return found[0]


class Archive:
    """A private apt: packages of one suite, sources of another; signatures are checked by Debian's keyring."""

    def __init__(self, directory: Path, *, packages: str = "", sources: str = "") -> None:
        for name in _DIRECTORIES:
            (directory / name).mkdir(parents=True)
        (directory / "state/status").touch()
        wanted = {"deb": packages, "deb-src": sources}
        (directory / "etc/sources.list").write_text("".join(
            f"{kind} [signed-by={_KEYRING}] {mirror()} {suite} main\n" for kind, suite in wanted.items() if suite
        ))  # fmt: skip
        configuration = directory / "apt.conf"
        configuration.write_text(_CONFIGURATION.format(directory=directory))
        self._environment = {"APT_CONFIG": str(configuration)}
        run("apt-get", "update", environment=self._environment)

    def unpack(self, packages: list[str], into: Path) -> None:
        """Unpacks binary packages, without the packages that they depend on."""
        with_downloads = into / "downloads"
        with_downloads.mkdir(parents=True)
        run("apt-get", "download", *packages, cwd=with_downloads, environment=self._environment)
        for file in sorted(with_downloads.glob("*.deb")):
            run("dpkg-deb", "--extract", file, into)
            fields = run("dpkg-deb", "--show", "--showformat=${Package} ${Version} ${Architecture}", file)
            name, version, architecture = fields.split()
            note(name, version, architecture, file)
            file.unlink()
        with_downloads.rmdir()

    def unpack_source(self, package: str, into: Path) -> str:
        """Unpacks a source package into a directory that does not exist yet; returns its version."""
        downloads = into.parent / "source"
        downloads.mkdir()
        run("apt-get", "source", "--download-only", package, cwd=downloads, environment=self._environment)
        (description,) = downloads.glob("*.dsc")
        run("dpkg-source", "--extract", description, into)
        version = re.findall(r"^Version: (\S+)", description.read_text("utf-8"), re.MULTILINE)[0]
        note(package, version, "source", description)
        return description.stem.partition("_")[2]


def _host_suite() -> str:
    fields = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    return fields.get("VERSION_CODENAME", "").strip('"')


# An expired release file is accepted: the archive of a frozen mirror is as good; its signature is checked anyway.
_CONFIGURATION = """\
Dir::State "{directory}/state";
Dir::State::Lists "{directory}/lists";
Dir::State::status "{directory}/state/status";
Dir::Cache "{directory}/cache";
Dir::Etc "{directory}/etc";
Dir::Etc::sourcelist "{directory}/etc/sources.list";
Dir::Etc::sourceparts "{directory}/etc/sources.list.d";
APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
"""
