"""The ways in which an OS is upgraded and rolled back: by ostree, by rpm-ostree, by commands of its profile."""

from __future__ import annotations

import json
import shlex
from typing import Protocol

from lifsea_testbed.errors import GuestFailure, NotJudged
from lifsea_testbed.guest.ostree import Deployments
from lifsea_testbed.guest.system import System
from lifsea_testbed.profiles.profile import Upgrades, UpgradeTool
from lifsea_testbed.support.protocols import Shell
from lifsea_testbed.upgrade.offer import Offer

#: How long a tool may take to fetch and deploy a whole image on real hardware (seconds).
_WHOLE_IMAGE = 300.0
_REMOTE = "lifsea-testbed"
_REMOTE_FILE = f"/etc/ostree/remotes.d/{_REMOTE}.conf"
_DESCRIBE = """
mkdir -p /etc/ostree/remotes.d
cat >{file} <<'END-OF-REMOTE'
[remote "{name}"]
url={url}
gpg-verify={signed}
END-OF-REMOTE
"""


class Upgrade(Protocol):
    """How one machine is upgraded and rolled back; both take effect with the next boot.

    What runs and what boots next is told by the same kind of name: a commit, or a version.
    """

    def running(self) -> str:
        """Returns what runs."""
        ...

    def boots_next(self) -> str:
        """Returns what boots next; once that is what runs, nothing is left to be done."""
        ...

    def names(self, offer: Offer) -> str:
        """Returns by which name an offer is known once it runs."""
        ...

    def apply(self, offer: Offer) -> str:
        """Fetches what is on offer and has it boot next; returns the last line that the tool said.

        That it returns is the sign of success: from then on no power cut may undo it.

        Raises:
            CommandFailed: the tool ended with a status other than 0; what it said is the evidence.
            WaitTimedOut: it did not end.
        """
        ...

    def roll_back(self) -> None:
        """Has the image boot next that ran before the last upgrade.

        Raises:
            CommandFailed: the tool ended with a status other than 0.
        """
        ...


class OstreeUpgrade:
    """By `ostree pull` and `ostree admin deploy`, as LifseaOS up to 3.3 does it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def running(self) -> str:
        """Returns the commit that runs."""
        return Deployments(self._shell).booted().commit

    def boots_next(self) -> str:
        """Returns the commit of the first deployment."""
        return Deployments(self._shell).all()[0].commit

    def names(self, offer: Offer) -> str:
        """Returns the commit."""
        return offer.commit

    def fetch(self, offer: Offer) -> None:
        """Pulls the branch."""
        _describe(self._shell, offer)
        self._shell.run(f"ostree pull {_REMOTE} {shlex.quote(offer.branch)}", within=_WHOLE_IMAGE)

    def apply(self, offer: Offer) -> str:
        """Pulls the branch, and deploys the commit."""
        self.fetch(offer)
        deployments = Deployments(self._shell)
        return _last_line(deployments.deploy(deployments.booted().os, offer.commit).stdout)

    def roll_back(self) -> None:
        """Makes the second deployment the first."""
        Deployments(self._shell).roll_back()


class RpmOstreeUpgrade:
    """By `rpm-ostree rebase` and `rpm-ostree rollback`, as LifseaOS from 3.4 on and Fedora CoreOS do it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def running(self) -> str:
        """Returns the commit that runs.

        Raises:
            GuestFailure: rpm-ostree does not know the running system.
        """
        running = [checksum for checksum, booted in self._deployments() if booted]
        if not running:
            raise GuestFailure("rpm-ostree says that no deployment is booted")
        return running[0]

    def boots_next(self) -> str:
        """Returns the commit of the first deployment."""
        return self._deployments()[0][0]

    def names(self, offer: Offer) -> str:
        """Returns the commit."""
        return offer.commit

    def apply(self, offer: Offer) -> str:
        """Rebases to the branch, at that commit."""
        _describe(self._shell, offer)
        words = ["rpm-ostree", "rebase", f"{_REMOTE}:{offer.branch}", offer.commit]
        return _last_line(self._shell.run(shlex.join(words), within=_WHOLE_IMAGE).stdout)

    def roll_back(self) -> None:
        """Makes the previous deployment the first."""
        self._shell.run("rpm-ostree rollback", within=_WHOLE_IMAGE)

    def _deployments(self) -> list[tuple[str, bool]]:
        """The commits in boot order, and whether each is booted.

        Raises:
            GuestFailure: the status is no JSON of rpm-ostree.
        """
        text = self._shell.run("rpm-ostree status --json").stdout
        try:
            found = [(str(one["checksum"]), bool(one["booted"])) for one in json.loads(text)["deployments"]]
        except (ValueError, KeyError, TypeError):
            found = []
        if not found:
            raise GuestFailure("rpm-ostree status tells of no deployment", expected="JSON with deployments",
                               evidence=text[-2000:])  # fmt: skip
        return found


class CommandUpgrade:
    """By the commands of a profile, which find the offer in $OFFER_URL, _BRANCH, _COMMIT and _VERSION."""

    def __init__(self, shell: Shell, commands: Upgrades) -> None:
        self._shell = shell
        self._commands = commands

    def running(self) -> str:
        """Returns what the profile's command prints, or else the version in os-release."""
        if self._commands.running:
            return self._shell.run(self._commands.running).stdout.strip()
        return System(self._shell).os_release().get("VERSION_ID", "")

    def boots_next(self) -> str:
        """Returns what the profile's command prints.

        Raises:
            NotJudged: the profile has none.
        """
        return self._shell.run(_known(self._commands.boots_next, "boots_next")).stdout.strip()

    def names(self, offer: Offer) -> str:
        """Returns the version."""
        return offer.version

    def apply(self, offer: Offer) -> str:
        """Runs the profile's command.

        Raises:
            NotJudged: the profile has none.
        """
        named = {"URL": offer.url, "BRANCH": offer.branch, "COMMIT": offer.commit, "VERSION": offer.version}
        settings = "\n".join(f"export OFFER_{name}={shlex.quote(value)}" for name, value in named.items())
        command = _known(self._commands.deploy, "deploy")
        return _last_line(self._shell.run(f"{settings}\n{command}", within=_WHOLE_IMAGE).stdout)

    def roll_back(self) -> None:
        """Runs the profile's command.

        Raises:
            NotJudged: the profile has none.
        """
        self._shell.run(_known(self._commands.roll_back, "roll_back"), within=_WHOLE_IMAGE)


def way(shell: Shell, upgrades: Upgrades) -> Upgrade:
    """Returns the way that a profile names."""
    if upgrades.tool is UpgradeTool.COMMANDS:
        return CommandUpgrade(shell, upgrades)
    return OstreeUpgrade(shell) if upgrades.tool is UpgradeTool.OSTREE else RpmOstreeUpgrade(shell)


def _describe(shell: Shell, offer: Offer) -> None:
    """Makes the repository known to ostree."""
    shell.run(_DESCRIBE.format(file=_REMOTE_FILE, name=_REMOTE, url=offer.url, signed=str(offer.signed).lower()))


def _known(command: str, what: str) -> str:
    if not command:
        raise NotJudged(f"the profile does not know the command upgrades.{what}")
    return command


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
