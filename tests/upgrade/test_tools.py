"""Upgrades: a real ostree pulls offers from the served repository; each tool runs the right commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifsea_testbed.ecs.metadata import Request
from lifsea_testbed.errors import CommandFailed, GuestFailure, NotJudged, ProfileRefused
from lifsea_testbed.profiles.profile import UpgradesSection, load, names
from lifsea_testbed.upgrade.offer import EDITED, Offer, make_offers, offer_from_disk
from lifsea_testbed.upgrade.repository import Repository, RepositoryFault
from lifsea_testbed.upgrade.tools import COMMANDS, CommandTool, OstreeTool, RpmOstreeTool, upgrade_tool
from tests.support.fakes import FakeShell
from tests.support.ostree_host import Host, served

OFFER = Offer(url="http://mirror/", branch="lifsea-testbed/1", commit="c" * 64, version="3.3.0+testbed.1")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_made_up_commits_can_be_pulled_and_hold_what_is_new(host: Host, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "served")
    with served(repository) as url:
        first, second = make_offers(host, tmp_path / "served", url, 2)
        for offer in (first, second):
            OstreeTool(host).fetch(offer)
            assert host.ostree("cat", offer.commit, EDITED.replace("/etc", "/usr/etc")) == f"{offer.version}\n"
            assert "VERSION_ID" in host.ostree("cat", offer.commit, "/usr/etc/os-release")
    assert (first.version, second.version) == ("3.3.0+testbed.1", "3.3.0+testbed.2")
    assert len([path for path in repository.requests if path.endswith(".filez")]) < 5, "only what is new is fetched"
    host.ostree("fsck", "--quiet")


def test_what_another_image_has_deployed_can_be_pulled(host: Host, tmp_path: Path) -> None:
    """Only what the machine lacks is carried out of it and fetched back."""
    wanted = host.deployed_on_a_disk("new")
    repository = Repository(tmp_path / "served")
    with served(repository) as url:
        offer = offer_from_disk(host, tmp_path / "served", url, "vdb")
        assert (offer.commit, offer.version) == (wanted, "3.4.0")
        OstreeTool(host).fetch(offer)
    assert host.ostree("cat", wanted, "/usr/etc/new") == "new"
    assert len([path for path in repository.requests if path.endswith(".filez")]) == 1
    host.ostree("fsck", "--quiet")


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/link", "/", "/none"])
def test_nothing_outside_of_the_repository_is_served(tmp_path: Path, path: str) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "served/link").symlink_to("../secret")
    assert Repository(tmp_path / "served").answer(Request(method="GET", path=path)).status == 404


def test_faults_are_in_the_content_alone(tmp_path: Path) -> None:
    for name in ("config", "a.filez"):
        (tmp_path / name).write_bytes(b"content")
    repository = Repository(tmp_path)

    def get(name: str) -> tuple[bytes, int | None]:
        response = repository.answer(Request(method="GET", path=f"/{name}"))
        return response.body, response.promised

    repository.fault = RepositoryFault.CUT_OFF
    assert (get("config"), get("a.filez")) == ((b"content", None), (b"con", 7))
    repository.fault = RepositoryFault.CORRUPTED
    assert get("config") == (b"content", None)
    assert get("a.filez")[0] != b"content" and len(get("a.filez")[0]) == 7


def test_ostree_pulls_and_deploys_the_commit() -> None:
    shell = FakeShell({"admin status": f"* lifsea {'a' * 64}.0\n", "ostree pull": "", "remotes.d": "",
                       "admin deploy": "Copying\nBootloader updated; bootconfig swap: yes\n"})  # fmt: skip
    tool = OstreeTool(shell)
    assert tool.apply(OFFER).startswith("Bootloader updated")
    assert shell.scripts[-1] == f"ostree admin deploy --os=lifsea {OFFER.commit}"
    assert (tool.running(), tool.boots_next(), tool.name_of(OFFER)) == ("a" * 64, "a" * 64, OFFER.commit)


def test_rpm_ostree_is_read_as_json_and_rebased() -> None:
    status = {"deployments": [{"checksum": "new", "booted": False}, {"checksum": "old", "booted": True}]}
    shell = FakeShell({"status --json": json.dumps(status), "remotes.d": "", "rebase": "Run \"systemctl reboot\"\n",
                       "rollback": ""})  # fmt: skip
    tool = RpmOstreeTool(shell)
    assert (tool.running(), tool.boots_next()) == ("old", "new")
    assert tool.apply(OFFER) == 'Run "systemctl reboot"'
    assert shell.scripts[-1] == f"rpm-ostree rebase lifsea-testbed:lifsea-testbed/1 {OFFER.commit}"
    tool.roll_back()
    assert shell.scripts[-1] == "rpm-ostree rollback"


@pytest.mark.parametrize("status", ["", "{}", '{"deployments": []}', '{"deployments": [7]}'])
def test_a_status_without_deployments_is_the_images_fault(status: str) -> None:
    with pytest.raises(GuestFailure, match="no deployment"):
        RpmOstreeTool(FakeShell({"status": status})).boots_next()


def test_the_failure_of_a_tool_is_raised() -> None:
    shell = FakeShell({"remotes.d": "", "rebase": (1, ""), "rollback": (1, "")})
    for act in (lambda: RpmOstreeTool(shell).apply(OFFER), RpmOstreeTool(shell).roll_back):
        with pytest.raises(CommandFailed):
            act()


def test_commands_of_a_profile_find_the_offer() -> None:
    upgrades = UpgradesSection(tool=COMMANDS, deploy="os-update --from $OFFER_URL", roll_back="os-update --back",
                               boots_next="os-update --next")  # fmt: skip
    shell = FakeShell({"--from": "done\n", "--back": "", "--next": "2\n", "os-release": "VERSION_ID=1\n"})
    tool = CommandTool(shell, upgrades)
    assert tool.apply(OFFER) == "done"
    assert f"export OFFER_VERSION={OFFER.version}" in shell.scripts[0].splitlines()
    tool.roll_back()
    assert (tool.running(), tool.boots_next(), tool.name_of(OFFER)) == ("1", "2", OFFER.version)


def test_a_command_that_a_profile_lacks_is_not_judged() -> None:
    tool = CommandTool(FakeShell({}), UpgradesSection(tool=COMMANDS))
    for step in (lambda: tool.apply(OFFER), tool.roll_back, tool.boots_next):
        with pytest.raises(NotJudged, match="upgrades"):
            step()


def test_every_profile_names_its_tool() -> None:
    tools = {name: type(upgrade_tool(FakeShell({}), load(name).upgrades)) for name in names()}
    assert tools["reference"] is tools["lifsea-3.3"] is OstreeTool
    assert tools["lifsea-3.4"] is tools["lifsea-3.5"] is tools["fedora-coreos"] is RpmOstreeTool
    assert tools["bottlerocket"] is CommandTool


def test_a_plugin_adds_tools_by_name() -> None:
    section = UpgradesSection(tool="ab-update")
    tool = upgrade_tool(FakeShell({}), section, {"ab-update": lambda shell, _: OstreeTool(shell)})
    assert isinstance(tool, OstreeTool)
    with pytest.raises(ProfileRefused, match="ab-update") as raised:
        upgrade_tool(FakeShell({}), section)
    assert raised.value.hint == "one of commands, ostree, rpm-ostree"
