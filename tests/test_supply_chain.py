"""What the project is made with: locked, looked up for advisories, and its licences listed."""

from __future__ import annotations

import hashlib
import http.server
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections import deque
from pathlib import Path
from typing import Any, Self

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import images.archive
from images import tree
from images.archive import Archive
from images.errors import BuildError
from images.store import Store
from tests.support import ROOT, third_party

LOCK = (ROOT / "ci/requirements.txt").read_text("utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
#: The kinds of files that projects copy from others.
_COPIED = re.compile(r"[.](js|mjs|css|html|svg|png|jpe?g|gif|ico|woff2?|ttf|otf|wasm|map|xsd|patch|config|jar|whl|gz)$")
_NOTICE = re.compile(r"copyright \(?c?\)? ?[0-9]|SPDX-License-Identifier:\s|@license\s|^\W*licensed under ",
                     re.IGNORECASE | re.MULTILINE)


#: What downloads, and what switches off a check of pip, npm, apt, Go or git.
_DOWNLOAD = re.compile(r"\b(curl|wget) +-|urlopen|urlretrieve|requests\.|https?://|ftp://|git clone|"
                       r"go (get|install|mod)|allow-unauthenticated|trusted=yes|AllowInsecure|no-check|"
                       r"insecure|strict-ssl|GONOSUM|GOPROXY|trusted-host|no-verify|--no-gpg")
#: The address of the metadata service, in scripts that run in a guest.
_METADATA = "http://100.100.100.200/"


def locked() -> dict[str, Requirement]:
    """The packages of the lock for this Python, by name."""
    lines = [line.removesuffix(" \\") for line in LOCK.splitlines() if line[:1].isalnum()]
    wanted = [Requirement(line) for line in lines]
    return {canonicalize_name(each.name): each for each in wanted if not each.marker or each.marker.evaluate()}


def needed() -> set[str]:
    """What development, the build and all that they need in turn are made of, by what the packages themselves say."""
    project = PROJECT["project"]
    extras = {f"{project['name']}[{name}]": rows for name, rows in project["optional-dependencies"].items()}
    waiting = deque(map(Requirement, [*PROJECT["build-system"]["requires"], *project["dependencies"], *extras[
        f"{project['name']}[dev]"]]))  # fmt: skip
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.popleft()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            rows = extras.get(f"{name}[{extra}]", []) if name == project["name"] else \
                importlib.metadata.requires(name) or []  # fmt: skip
            waiting += [row for row in map(Requirement, rows)
                        if not row.marker or row.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen} - {project["name"]}


def test_the_lock_has_what_is_needed_and_nothing_else() -> None:
    assert set(locked()) == needed(), "ci/lock"


def test_the_lock_and_the_project_agree_on_versions() -> None:
    """What is installed is of the lock, and pyproject.toml allows it."""
    pinned = {name: str(requirement.specifier) for name, requirement in locked().items()}
    assert {name: f"=={importlib.metadata.version(name)}" for name in pinned} == pinned, "ci/setup"
    rows = [row for rows in PROJECT["project"]["optional-dependencies"].values() for row in rows]
    for wanted in map(Requirement, [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"], *rows]):
        if (name := canonicalize_name(wanted.name)) in pinned:
            assert wanted.specifier.contains(pinned[name].removeprefix("==")), wanted


def test_each_package_of_the_lock_has_hashes_and_no_address() -> None:
    """The hashes of all files of a version: another index, or another Python, takes another file of it."""
    packages = re.split(r"\n(?=[a-z0-9])", LOCK.partition("ci/lock\n")[2].strip())
    assert len(packages) >= len(locked()) > 100
    assert [text for text in packages if not re.fullmatch(
        r"[a-z0-9-]+(\[[a-z,]+\])?==\S+( ; [^\n]+?)?( \\\n    --hash=sha256:[0-9a-f]{64})+", text)] == []  # fmt: skip
    assert not re.search(r"://|--index|--find-links", LOCK)


def test_setup_installs_what_has_its_hash_and_builds_nothing_else() -> None:
    installs = re.findall(r"pip install (.+)", (ROOT / "ci/setup").read_text("utf-8"))
    assert len(installs) == 2
    assert "--require-hashes --no-deps --only-binary :all:" in installs[0]
    assert "--no-deps --no-build-isolation --no-index --editable ." in installs[1]


@pytest.mark.nightly
def test_a_package_that_was_exchanged_is_not_installed(tmp_path: Path) -> None:
    """pip takes a file of the same name and another content for what it is."""
    name, version = "rich", importlib.metadata.version("rich")
    lock = re.sub(r"[0-9a-f]{64}", "0" * 64, "\n".join(
        [text for text in re.split(r"\n(?=[a-z0-9])", LOCK) if text.startswith(f"{name}=={version}")]))  # fmt: skip
    (tmp_path / "requirements.txt").write_text(lock)
    download = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "-r", "requirements.txt"]
    refused = subprocess.run(download, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "DO NOT MATCH THE HASHES" in refused.stderr


class Advisories(http.server.BaseHTTPRequestHandler):
    """OSV's query: one advisory for one package, none for others."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        known = {"id": "OSV-1", "modified": "2026-01-01T00:00:00Z", "summary": "reads too much",
                 "affected": [{"package": {"name": asked, "ecosystem": "PyPI"}, "versions": []}]}  # fmt: skip
        body = json.dumps({"vulns": [known]} if asked == "rich" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class Database:
    """A database of advisories on this host, within the context."""

    def __enter__(self) -> Self:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/query"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def audit(*options: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [ROOT / "ci/audit", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "no_proxy": "*"})


def test_a_known_advisory_fails_the_audit(tmp_path: Path) -> None:
    cache = ["--cache-dir", str(tmp_path)]
    with Database() as database:
        told = audit("--osv-url", database.url, *cache)
        assert told.returncode == 1 and re.search(r"rich +\S+ +OSV-1", told.stdout), told
        allowed = audit("--osv-url", database.url, "--ignore-vuln", "OSV-1", *cache)
    assert allowed.returncode == 0 and "no advisory is known" in allowed.stdout, allowed
    unreachable = audit("--osv-url", database.url, *cache)
    assert unreachable.returncode == 7 and unreachable.stderr.startswith("not judged: no database"), unreachable


@pytest.mark.nightly
def test_no_advisory_is_known_for_any_package() -> None:
    told = audit()
    if told.returncode == 7:
        pytest.skip(told.stderr.strip())
    assert told.returncode == 0, told.stdout


def test_nothing_is_downloaded_without_a_check() -> None:
    """Recipes and scripts get things by apt, pip and npm alone, and switch off none of their checks."""
    names = ["images/*.py", "images/mutants", "images/reference/*.sh", "images/reference/*/*.sh", "ci", ":!ci/npm",
             ":!ci/requirements.txt"]  # fmt: skip
    listed = subprocess.run(["git", "ls-files", *names], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [f"{name}: {line}" for name in listed.split() for line in (ROOT / name).read_text("utf-8").splitlines()
             if _DOWNLOAD.search(line) and _METADATA not in line]  # fmt: skip
    assert lines == []
    npm = re.findall(r"npm (?:ci|install|exec|i) .*", (ROOT / "ci/tool").read_text("utf-8"))
    assert len(npm) == 1 and npm[0].startswith("npm ci ") and "--ignore-scripts" in npm[0]
    assert "GO111MODULE\": \"off" in (ROOT / "images/kubelet.py").read_text("utf-8")


def debian_archive(place: Path) -> str:
    """The address of a Debian archive without packages, whose release file is not signed."""
    release = place / "dists/trixie"
    (release / "main/binary-amd64").mkdir(parents=True)
    (release / "main/binary-amd64/Packages").touch()
    fields = {"Suite": "trixie", "Codename": "trixie", "Architectures": "amd64", "Components": "main",
              "Date": "Thu, 01 Jan 2026 00:00:00 UTC",
              "SHA256": f"\n {hashlib.sha256(b'').hexdigest()} 0 main/binary-amd64/Packages"}  # fmt: skip
    (release / "Release").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    return f"file:{place}"


def signed(place: Path, home: Path) -> Path:
    """Signs that archive, and returns the keyring of who did."""
    home.mkdir(mode=0o700)
    release, keyring = place / "dists/trixie/Release", home / "keyring.gpg"
    for command in (["--passphrase", "", "--quick-generate-key", "x@example.org"], ["--export", "-o", str(keyring)],
                    ["--clearsign", "-o", str(release.with_name("InRelease")), str(release)]):  # fmt: skip
        subprocess.run(["gpg", "--homedir", str(home), "--batch", *command], check=True, capture_output=True)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=True)
    return keyring


def test_an_archive_that_debian_did_not_sign_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the private apt of the recipes, and by mmdebstrap."""
    address = debian_archive(tmp_path / "archive")
    for module in (images.archive, tree):
        monkeypatch.setattr(module, "mirror", lambda: address)
    with pytest.raises(BuildError, match="is not signed"):
        Archive(tmp_path / "unsigned", packages="trixie")
    keyring = signed(tmp_path / "archive", tmp_path / "key")
    with pytest.raises(BuildError, match="is not signed"):
        Archive(tmp_path / "another", packages="trixie")
    with pytest.raises(BuildError, match="is not signed"):
        tree.debian(Store(tmp_path / "store"), "x", "trixie", ["hello"])
    monkeypatch.setattr(images.archive, "_KEYRING", str(keyring))
    Archive(tmp_path / "known", packages="trixie")


def test_what_is_of_others_is_listed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    known = {*third_party.OF_OTHERS, *third_party.OWN}
    assert [name for name in listed if _COPIED.search(name) and name not in known] == []
    assert known <= set(listed)
    texts = {name: (ROOT / name).read_text("utf-8", "replace") for name in listed if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if _NOTICE.search(text) and name not in known] == []


def test_the_licence_is_the_one_that_the_package_names() -> None:
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert PROJECT["project"]["license"] == "Apache-2.0" and PROJECT["project"]["license-files"] == ["LICENSE"]
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence


def test_tools_of_npm_are_locked_and_may_be_passed_on() -> None:
    lock = json.loads((ROOT / "ci/npm/package-lock.json").read_text("utf-8"))
    assert [place for place, package in lock["packages"].items()
            if place and not package.get("integrity", "").startswith("sha512-")] == []  # fmt: skip
    assert set(third_party.npm_licences()) <= set(third_party.ACCEPTED)
