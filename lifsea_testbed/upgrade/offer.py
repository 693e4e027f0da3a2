"""Offers to a machine: commits made up on top of the one that it runs, or the commit of another image's disk.

The OS's own ostree makes the repository in the guest. It holds only the objects that the machine lacks: the machine's
own repository is its parent.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.guest.files import Files
from lifsea_testbed.guest.ostree import REPOSITORY, Deployments
from lifsea_testbed.support.protocols import Shell

#: Files below /etc that made-up commits add: the machine edits the first, leaves the second, and removes the third.
EDITED, LEFT, REMOVED = (f"/etc/lifsea-testbed-defaults/{name}" for name in ("edited", "left", "removed"))
_PLACE = "/run/lifsea-testbed-offer"
#: How long ostree may take to write a commit on real hardware (seconds).
_COMMIT = 120.0
_MAKE = "set -e; rm -rf {place}; ostree --repo={place} init --mode=archive; " \
        "ostree --repo={place} config set core.parent {repository}"  # fmt: skip
_COMMIT_NEXT = """
set -e
tree={place}.tree
rm -rf $tree
mkdir -p $tree/usr/etc/lifsea-testbed-defaults
for name in edited left removed; do echo {version} >$tree/usr/etc/lifsea-testbed-defaults/$name; done
ostree --repo={place} commit --branch={ref} --parent={base} --subject={version} \\
    --add-metadata-string=version={version} --tree=ref={base} --tree=dir=$tree
rm -rf $tree
"""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A commit in the repository at a URL, and the branch that leads to it.

    With `signed` the machine must accept nothing from that repository that is not signed.
    """

    url: str
    branch: str
    commit: str
    version: str
    signed: bool = False


def make_offers(shell: Shell, into: Path, url: str, count: int) -> list[Offer]:
    """Makes `count` commits, each on top of the last, the first on top of the running one; returns the oldest first.

    They differ from it in a few files: a machine is upgraded without a next image and without a network.
    """
    base = Deployments(shell).booted()
    offers: list[Offer] = []
    shell.run(_MAKE.format(place=_PLACE, repository=REPOSITORY))
    for number in range(1, count + 1):
        branch, version = f"lifsea-testbed/{number}", f"{base.version or 0}+testbed.{number}"
        script = _COMMIT_NEXT.format(place=_PLACE, ref=branch, base=offers[-1].commit if offers else base.commit,
                                     version=shlex.quote(version))  # fmt: skip
        commit = shell.run(script, within=_COMMIT).stdout.strip()
        offers.append(Offer(url=url, branch=branch, commit=commit, version=version))
    _carry_out(shell, into)
    return offers


def offer_from_disk(shell: Shell, into: Path, url: str, device: str) -> Offer:
    """Offers the commit that is deployed on another disk of the machine.

    Its branch is one that the commit is bound to, if any: ostree refuses the commit under another name.
    """
    shell.run(_MAKE.format(place=_PLACE, repository=REPOSITORY))
    deployments = Deployments(shell)
    commit = deployments.pull_from_disk(device, _PLACE)
    branches = deployments.metadata_strings(commit, "ostree.ref-binding", _PLACE)
    branch = (branches or ["lifsea-testbed/next"])[0]
    version = (deployments.metadata_strings(commit, "version", _PLACE) or [""])[0]
    shell.run(f"ostree --repo={_PLACE} refs --force --create={shlex.quote(branch)} {shlex.quote(commit)}")
    _carry_out(shell, into)
    return Offer(url=url, branch=branch, commit=commit, version=version)


def _carry_out(shell: Shell, into: Path) -> None:
    Files(shell).get_tree(_PLACE, into)
    shell.run(f"rm -rf {_PLACE}")
