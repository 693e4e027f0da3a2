"""Upgrade tools: how an OS fetches its next image, boots it and goes back: ostree, rpm-ostree, commands of a profile.

A profile names its tool in `upgrades.tool`; `upgrade_tool` makes it for one machine.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from lifsea_testbed.errors import GuestFailure, NotJudged, ProfileRefused, Reason
from lifsea_testbed.guest.ostree import Deployments
from lifsea_testbed.guest.system import System
from lifsea_testbed.profiles.profile import UpgradesSection
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell
from lifsea_testbed.upgrade.offer import Offer

#: The built-in tools, by the names that a profile gives in `upgrades.tool`.
OSTREE, RPM_OSTREE, COMMANDS = "ostree", "rpm-ostree", "commands"
#: How long a tool may take to fetch and deploy a whole image on real hardware (seconds).
_WHOLE_IMAGE = 300.0
_REMOTE = "lifsea-testbed"
_REMOTE_FILE = f"/etc/ostree/remotes.d/{_REMOTE}.conf"
_ADD_REMOTE = """
mkdir -p /etc/ostree/remotes.d
cat >{file} <<'END-OF-REMOTE'
[remote "{name}"]
url={url}
gpg-verify={signed}
END-OF-REMOTE
"""


class UpgradeTool(Protocol):
    """Upgrades one machine to an offered image and rolls it back. Both take effect at the next boot.

    Implement this protocol for an OS that none of the built-in tools can upgrade; no base class is needed. A tool works
    through a root shell in the guest alone: `shell.run(script)` returns the output, and raises CommandFailed when the
    script ends with a status other than 0. It never reboots the machine: the scenarios do, and call the tool again
    afterwards, so it must read all state from the guest and keep none of its own.

    `running`, `boots_next` and `name_of` name an image in the same way, by its commit or its version, and are compared
    as strings. An upgrade is complete when `running()` equals `boots_next()` and `name_of(offer)`.

    Example, for an OS with an A/B updater::

        class SwitchSlot:
            def __init__(self, shell: Shell, section: UpgradesSection) -> None:
                self._shell = shell

            def running(self) -> str:
                return self._shell.run("ab-update --print running").stdout.strip()

            def boots_next(self) -> str:
                return self._shell.run("ab-update --print next").stdout.strip()

            def name_of(self, offer: Offer) -> str:
                return offer.version

            def apply(self, offer: Offer) -> str:
                return self._shell.run(["ab-update", "--from", offer.url], within=300.0).stdout.strip()

            def roll_back(self) -> None:
                self._shell.run("ab-update --switch-back")

    Errors decide whose fault a failure is: let CommandFailed and WaitTimedOut of the shell pass, raise GuestFailure for
    output that cannot be understood, and NotJudged for a step that the OS does not have.
    """

    def running(self) -> str:
        """Returns the name of the image that runs now."""
        ...

    def boots_next(self) -> str:
        """Returns the name of the image that the next boot starts; it equals `running()` when no upgrade is pending.

        Raises:
            NotJudged: the OS has no way to find out.
        """
        ...

    def name_of(self, offer: Offer) -> str:
        """Returns the name that `running()` will return once the offered image runs. Reads nothing from the guest."""
        ...

    def apply(self, offer: Offer) -> str:
        """Fetches the offered image, makes it the one that boots next, and returns the last line of the tool's output.

        Returning is the sign of success: from then on no power cut may undo the upgrade. An image that is incomplete,
        corrupted or, with `offer.signed`, not signed must be refused, and the running image must stay the next one.

        Raises:
            CommandFailed: the tool ended with a status other than 0; its output is the evidence.
            WaitTimedOut: the tool did not end in time.
        """
        ...

    def roll_back(self) -> None:
        """Makes the image that ran before the last upgrade the one that boots next; also before the upgrade has booted.

        Raises:
            CommandFailed: the tool ended with a status other than 0.
        """
        ...


#: Makes the tool for one machine: of its root shell and the section `upgrades` of its profile.
MakeUpgradeTool = Callable[[Shell, UpgradesSection], UpgradeTool]
#: No tools beside the built-in ones.
NO_EXTRA_TOOLS: Mapping[str, MakeUpgradeTool] = MappingProxyType({})


class OstreeTool:
    """Upgrades by `ostree pull` and `ostree admin deploy`, as LifseaOS up to 3.3 does."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def running(self) -> str:
        """Returns the commit that runs."""
        return Deployments(self._shell).booted().commit

    def boots_next(self) -> str:
        """Returns the commit of the first deployment."""
        return Deployments(self._shell).all()[0].commit

    def name_of(self, offer: Offer) -> str:
        """Returns the commit."""
        return offer.commit

    def fetch(self, offer: Offer) -> None:
        """Pulls the branch."""
        _add_remote(self._shell, offer)
        self._shell.run(f"ostree pull {_REMOTE} {shlex.quote(offer.branch)}", within=_WHOLE_IMAGE)

    def deploy(self, commit: str) -> str:
        """Makes a commit that was pulled the one that boots next; returns the last line of the output."""
        deployments = Deployments(self._shell)
        return _last_line(deployments.deploy(deployments.booted().os, commit).stdout)

    def apply(self, offer: Offer) -> str:
        """Pulls the branch, and deploys the commit."""
        self.fetch(offer)
        return self.deploy(offer.commit)

    def roll_back(self) -> None:
        """Makes the second deployment the first."""
        Deployments(self._shell).roll_back()


class RpmOstreeTool:
    """Upgrades by `rpm-ostree rebase` and `rpm-ostree rollback`, as LifseaOS since 3.4 and Fedora CoreOS do."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def running(self) -> str:
        """Returns the commit that runs.

        Raises:
            GuestFailure: rpm-ostree reports no deployment as booted.
        """
        running = [checksum for checksum, booted in self._deployments() if booted]
        if not running:
            raise GuestFailure("rpm-ostree status --json reports no booted deployment",
                               expected="one deployment with \"booted\": true")  # fmt: skip
        return running[0]

    def boots_next(self) -> str:
        """Returns the commit of the first deployment."""
        return self._deployments()[0][0]

    def name_of(self, offer: Offer) -> str:
        """Returns the commit."""
        return offer.commit

    def apply(self, offer: Offer) -> str:
        """Rebases to the branch, at that commit."""
        _add_remote(self._shell, offer)
        words = ["rpm-ostree", "rebase", f"{_REMOTE}:{offer.branch}", offer.commit]
        return _last_line(self._shell.run(shlex.join(words), within=_WHOLE_IMAGE).stdout)

    def roll_back(self) -> None:
        """Makes the previous deployment the first."""
        self._shell.run("rpm-ostree rollback", within=_WHOLE_IMAGE)

    def _deployments(self) -> list[tuple[str, bool]]:
        """The commits in boot order, and whether each is booted.

        Raises:
            GuestFailure: the status is not the JSON of rpm-ostree.
        """
        text = self._shell.run("rpm-ostree status --json").stdout
        try:
            found = [(str(one["checksum"]), bool(one["booted"])) for one in json.loads(text)["deployments"]]
        except (ValueError, KeyError, TypeError):
            found = []
        if not found:
            raise GuestFailure("rpm-ostree status --json lists no deployment", expected="JSON with deployments",
                               evidence=text[-2000:])  # fmt: skip
        return found


class CommandTool:
    """Upgrades by the commands of a profile; $OFFER_URL, _BRANCH, _COMMIT and _VERSION describe the offer to them."""

    def __init__(self, shell: Shell, section: UpgradesSection) -> None:
        self._shell = shell
        self._section = section

    def running(self) -> str:
        """Returns the output of the profile's command, or else the version in os-release."""
        if self._section.running:
            return self._shell.run(self._section.running).stdout.strip()
        return System(self._shell).os_release().get("VERSION_ID", "")

    def boots_next(self) -> str:
        """Returns the output of the profile's command.

        Raises:
            NotJudged: the profile has none.
        """
        return self._shell.run(_required(self._section.boots_next, "boots_next")).stdout.strip()

    def name_of(self, offer: Offer) -> str:
        """Returns the version."""
        return offer.version

    def apply(self, offer: Offer) -> str:
        """Runs the profile's command.

        Raises:
            NotJudged: the profile has none.
        """
        named = {"URL": offer.url, "BRANCH": offer.branch, "COMMIT": offer.commit, "VERSION": offer.version}
        settings = "\n".join(f"export OFFER_{name}={shlex.quote(value)}" for name, value in named.items())
        command = _required(self._section.deploy, "deploy")
        return _last_line(self._shell.run(f"{settings}\n{command}", within=_WHOLE_IMAGE).stdout)

    def roll_back(self) -> None:
        """Runs the profile's command.

        Raises:
            NotJudged: the profile has none.
        """
        self._shell.run(_required(self._section.roll_back, "roll_back"), within=_WHOLE_IMAGE)


_BUILT_IN: Mapping[str, MakeUpgradeTool] = {
    OSTREE: lambda shell, _: OstreeTool(shell), RPM_OSTREE: lambda shell, _: RpmOstreeTool(shell),
    COMMANDS: CommandTool,
}  # fmt: skip


def upgrade_tool(shell: Shell, section: UpgradesSection,
                 extra: Mapping[str, MakeUpgradeTool] = NO_EXTRA_TOOLS) -> UpgradeTool:
    """Returns the tool that `upgrades.tool` of a profile names, for the machine behind that shell.

    `extra` are further tools by name, as a user's plugin registered them; one of a built-in name replaces that.

    Raises:
        ProfileRefused: there is no tool of that name.
    """
    require_tool(section, extra)
    return {**_BUILT_IN, **extra}[section.tool](shell, section)


def require_tool(section: UpgradesSection, extra: Mapping[str, MakeUpgradeTool] = NO_EXTRA_TOOLS) -> None:
    """Makes sure that the tool which `upgrades.tool` of a profile names exists.

    Raises:
        ProfileRefused: it does not.
    """
    known = {**_BUILT_IN, **extra}
    if section.tool not in known:
        raise ProfileRefused(f"upgrades.tool = {section.tool!r}: unknown upgrade tool",
                             hint=f"one of {', '.join(sorted(known))}")  # fmt: skip


def _add_remote(shell: Shell, offer: Offer) -> None:
    """Adds the offering repository to the remotes of ostree."""
    shell.run(_ADD_REMOTE.format(file=_REMOTE_FILE, name=_REMOTE, url=offer.url, signed=str(offer.signed).lower()))


def _required(command: str, name: str) -> str:
    if not command:
        raise NotJudged(f"the profile names no command upgrades.{name}", Reason.PROFILE)
    return command


def _last_line(text: str) -> str:
    return (split_lines(text.strip()) or [""])[-1]
