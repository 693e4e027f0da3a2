"""A host whose own ostree stands for a guest's, and a repository served to it."""

from __future__ import annotations

import http.server
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lifsea_testbed.ecs.metadata import Request
from lifsea_testbed.errors import CommandFailed
from lifsea_testbed.guest.ostree import REPOSITORY
from lifsea_testbed.support.protocols import CommandResult
from lifsea_testbed.upgrade.repository import Repository


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
