"""Fakes at the two interfaces: a guest that answers scripts, and a QEMU that speaks QMP."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from lifsea_testbed.errors import CommandFailed
from lifsea_testbed.support.protocols import CommandResult


class FakeShell:
    """Answers a script by the first of its answers whose key occurs in the script; status and output."""

    def __init__(self, answers: Mapping[str, str | tuple[int, str]]) -> None:
        self.answers = answers
        self.scripts: list[str] = []

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        script = command if isinstance(command, str) else shlex.join(command)
        self.scripts.append(script)
        answer = next((answer for key, answer in self.answers.items() if key in script), (127, ""))
        status, output = answer if isinstance(answer, tuple) else (0, answer)
        if check and status:
            raise CommandFailed(f"status {status} from: {script}")
        return CommandResult(script=script, exit_status=status, output=output.encode(), errors=b"", duration=0.0)


class FakeQemu:
    """Speaks QMP at its end of a socket pair: greets, then answers each command from a table."""

    VERSION: ClassVar = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
    GREETING: ClassVar = {"QMP": {"version": VERSION, "capabilities": []}}

    def __init__(self, answers: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.answers = dict(answers or {})
        self.seen: list[Mapping[str, Any]] = []
        self.ours, self.theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, message: Mapping[str, Any]) -> None:
        self.ours.sendall(json.dumps(message).encode() + b"\r\n")

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.ours.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.ours.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            self.say(self.GREETING)
            for request in self._requests():
                self.seen.append(request)
                answer = self.answers.get(request["execute"], {"return": {}})
                if answer.get("hang-up"):
                    self.ours.shutdown(socket.SHUT_RDWR)
                    return
                if not answer.get("silent"):
                    self.say({**answer, "id": request.get("id")})

    def _requests(self) -> Iterator[Mapping[str, Any]]:
        """JSON objects one after the other, as QEMU reads them: no end of line is needed between them."""
        unread, decoder = "", json.JSONDecoder()
        while data := self.ours.recv(4096):
            unread += data.decode()
            with contextlib.suppress(json.JSONDecodeError):
                while unread := unread.lstrip():
                    request, end = decoder.raw_decode(unread)
                    unread = unread[end:]
                    yield request
