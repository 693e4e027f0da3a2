"""Upgrades: a real ostree pulls offers from the served repository; each tool runs the right commands."""

from __future__ import annotations

import http.server
import json
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lifsea_testbed.ecs.metadata import Request
from lifsea_testbed.errors import CommandFailed, GuestFailure, NotJudged, ProfileRefused
from lifsea_testbed.guest.ostree import REPOSITORY
from lifsea_testbed.profiles.profile import UpgradesSection, load, names
from lifsea_testbed.scenarios import upgrade_paths
from lifsea_testbed.support.protocols import CommandResult
from lifsea_testbed.upgrade.offer import EDITED, Offer, make_offers, offer_from_disk
from lifsea_testbed.upgrade.repository import Repository, RepositoryFault
from lifsea_testbed.upgrade.tools import COMMANDS, CommandTool, OstreeTool, RpmOstreeTool, upgrade_tool
from tests.support.fakes import FakeShell

OFFER = Offer(url="http://mirror/", branch="lifsea-testbed/1", commit="c" * 64, version="3.3.0+testbed.1")


class Host:
    """The host in place of a guest that runs ostree: its paths lie in a directory, and one commit counts as booted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.repository = directory / "repo"
        tree = directory / "tree"
        (tree / "usr/etc").mkdir(parents=True)
        (tree / "usr/etc/os-release").write_text("VERSION_ID=3.3.0\n")
        self.ostree("init", "--mode=archive")
        self.commit = self.ostree("commit", "--branch=os", f"--tree=dir={tree}").strip()

    def ostree(self, *words: str) -> str:
        command = ["ostree", f"--repo={self.repository}", *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        script = command if isinstance(command, str) else shlex.join(command)
        ran = subprocess.run(["sh", "-c", self._here(script)], input=input, capture_output=True, check=False)
        if check and ran.returncode:
            raise CommandFailed(f"status {ran.returncode}", evidence=ran.stderr.decode())
        return CommandResult(script=script, exit_status=ran.returncode, output=ran.stdout, errors=ran.stderr,
                             duration=0.0)  # fmt: skip

    def deployed_on_a_disk(self, text: str) -> str:
        """Puts another image's commit, with a file of that text, where its disk is mounted; returns the commit."""
        disk, tree = self._directory / "disk", self._directory / "other"
        (tree / "usr/etc").mkdir(parents=True)
        (tree / "usr/etc/new").write_text(text)
        (tree / "usr/etc/os-release").write_text("VERSION_ID=3.3.0\n")
        other = ["ostree", f"--repo={self._directory}/disk-repo"]
        subprocess.run([*other, "init", "--mode=bare"], check=True)
        words = ["commit", "--branch=os", f"--tree=dir={tree}", "--add-metadata-string=version=3.4.0"]
        commit = subprocess.run([*other, *words], check=True, capture_output=True, text=True).stdout.strip()
        (disk / f"ostree/deploy/lifsea/deploy/{commit}.0").mkdir(parents=True)
        return commit

    def _here(self, script: str) -> str:
        """The script with the guest's paths replaced; remotes are added to the repository's own configuration."""
        if script == "ostree admin status":
            return f"echo '* lifsea {self.commit}.0'; echo '    Version: 3.3.0'"
        places = {'"$point/ostree/repo"': self._directory / "disk-repo", 'rmdir "$point"': ":",
                  REPOSITORY: self.repository, "/run/lifsea-testbed-offer": self._directory / "offer",
                  "/etc/ostree/remotes.d/lifsea-testbed.conf": f">{self.repository}/config",
                  "ostree pull ": f"ostree --repo={self.repository} pull ",
                  "$(mktemp -d /run/lifsea-testbed-image.XXXXXX)": self._directory / "disk"}  # fmt: skip
        for place, there in places.items():
            script = script.replace(place, str(there))
        return script


@contextmanager
def served(repository: Repository) -> Iterator[str]:
    """A repository where the host's ostree finds it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            response = repository.answer(Request(method="GET", path=self.path))
            self.send_response(response.status)
            length = len(response.body) if response.promised is None else response.promised
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(response.body)

        def log_message(self, format: str, *args: object) -> None:
            """The repository keeps its own record."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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


@pytest.mark.parametrize("fault", [fault for fault in upgrade_paths.UPGRADE_FAULTS if not fault.full],
                         ids=lambda fault: fault.name)  # fmt: skip
def test_a_real_ostree_names_each_fault_and_recovers(host: Host, tmp_path: Path,
                                                     fault: upgrade_paths.UpgradeFault) -> None:
    repository = Repository(tmp_path / "served")
    with served(repository) as url:
        (offer,) = make_offers(host, tmp_path / "served", url, 1)
        repository.fault = fault.repository
        with pytest.raises(CommandFailed) as raised:
            OstreeTool(host).fetch(Offer(**{**vars(offer), "signed": fault.signed}))
        failed = upgrade_paths.FailedUpgrade(fault=fault, output=raised.value.evidence, boots_next="")
        assert failed.is_clear, raised.value.evidence
        repository.fault = RepositoryFault.NONE
        OstreeTool(host).fetch(offer)
    assert host.ostree("cat", offer.commit, EDITED.replace("/etc", "/usr/etc"))


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
