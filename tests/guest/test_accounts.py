"""Whoever can log in without having been let in is found: by password, by PAM, by a getty or a shell on a console."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from lifsea_testbed.guest import accounts, pam
from lifsea_testbed.guest.accounts import Accounts
from tests.support.fakes import FakeShell

LOCKED = {"/etc/passwd": "root:x:0:0::/root:/bin/sh\nbin:*:2:2::/:\n", "/etc/shadow": "root:*:1::\nbin:!:1::\n",
          "/etc/group": "root:x:0:\nsudo:*:27:\nadm::4:\n", "/etc/gshadow": "root:*::\nsudo:!::\nadm:::\n"}  # fmt: skip


def opened(**files: str) -> list[str]:
    texts = {**LOCKED, **{f"/etc/{name}": text for name, text in files.items()}}

    def read(paths: Iterable[str]) -> dict[str, str]:
        return {path: texts[path] for path in paths if path in texts}

    return accounts.opened(read)


@pytest.mark.parametrize(("files", "expected"), [
    ({}, []),
    ({"passwd": "root::0:0::/root:/bin/sh\n"}, ["root"]),
    ({"passwd": "root:$6$salt$hash:0:0::/root:/bin/sh\n"}, ["root"]),
    ({"passwd": "root:x:0:0::/:\ntoor:x:0:0::/:/bin/sh\n"}, ["toor (user identifier 0)"]),
    ({"passwd": "root:x:0:0::/:\nt:x:00:0::/:/bin/sh\n"}, ["t (user identifier 0)"]),
    ({"passwd": "root:x:0:0::/:\n+::::::\n"}, ["+"]),
    ({"shadow": "root::1::\n"}, ["root"]), ({"shadow": "root:$y$j9T$x:1::\n"}, ["root"]),
    ({"gshadow": "sudo:$6$salt$hash::\n"}, ["group sudo"]), ({"group": "sudo:abJnggxhB/yWI:27:\n"}, ["group sudo"]),
])  # fmt: skip
def test_every_field_that_opens_something_is_found(files: dict[str, str], expected: list[str]) -> None:
    assert opened(**files) == expected


def test_the_files_of_other_sources_are_read_as_well() -> None:
    shell = FakeShell({"extrausers/passwd": "/var/lib/extrausers/passwd\neve::1000:1000::/:/bin/sh\n\0\0",
                       "for file": "\0\0"})  # fmt: skip
    assert Accounts(shell).with_password() == ["eve"]


DEBIAN = {"/etc/pam.d/common-auth": "auth [success=1 default=ignore] pam_unix.so nullok\nauth requisite pam_deny.so\n"
                                    "auth required pam_permit.so\nauth optional pam_cap.so\n",
          "/etc/pam.d/login": "auth optional pam_faildelay.so\nauth requisite pam_nologin.so\n@include common-auth\n",
          "/etc/pam.d/su": "auth sufficient pam_rootok.so\n@include common-auth\n",
          "/etc/pam.d/other": "auth required pam_deny.so\n"}  # fmt: skip


@pytest.mark.parametrize(("file", "text", "expected"), [
    ("other", DEBIAN["/etc/pam.d/other"], []),
    ("common-auth", "auth required pam_permit.so\n", ["login (pam_permit)", "su (pam_permit)"]),
    ("common-auth", "auth [default=ok] pam_unix.so\n", ["login (pam_unix)", "su (pam_unix)"]),
    ("login", "auth sufficient pam_rootok.so\nauth include common-auth\n", ["login (pam_rootok)"]),
    ("login", "-auth sufficient \\\n  /lib/security/pam_permit.so\n@include common-auth\n", ["login (pam_permit)"]),
    ("login", "auth required pam_unix.so\nauth sufficient pam_permit.so\n", []),
    ("login", "auth substack common-auth\nauth required pam_permit.so\n", []),
    ("login", "auth include login\n", []),
])  # fmt: skip
def test_a_stack_that_asks_nothing_is_found(file: str, text: str, expected: list[str]) -> None:
    assert pam.admitting({**DEBIAN, f"/etc/pam.d/{file}": text}) == expected


def test_the_administrators_file_goes_before_the_images() -> None:
    image = {"/usr/lib/pam.d/login": "auth required pam_permit.so\n"}
    assert pam.admitting(image) == ["login (pam_permit)"]
    assert pam.admitting({**image, "/etc/pam.d/login": "auth required pam_deny.so\n"}) == []


@pytest.mark.parametrize("command", [
    "/sbin/agetty --autologin root - linux", "/sbin/agetty -a root tty1", "/sbin/agetty -n -l /bin/bash tty1 linux",
    "/sbin/agetty --skip-login --login-program /bin/sh tty1", "/sbin/agetty -o '-p -f root' tty1 linux",
    "/bin/login -f root",
])  # fmt: skip
def test_a_getty_that_does_not_ask_is_found(command: str) -> None:
    shown = f"ExecStart={{ path={command.split()[0]} ; argv[]={command} ; pid=0 }}\nId=a.service\nStandardInput=tty"
    assert accounts.parse_services(shown) == ["a.service"]


@pytest.mark.parametrize(("command", "reads", "found"), [
    ("/bin/bash", "tty-force", ["x.service"]), ("/usr/bin/zsh -l", "tty", ["x.service"]), ("/bin/sh -c x", "null", []),
    ("/bin/sh -c /sbin/sulogin", "tty-force", []), ("/sbin/agetty - linux", "tty", []),
])  # fmt: skip
def test_a_shell_on_a_terminal_is_found(command: str, reads: str, found: list[str]) -> None:
    shown = f"ExecStart={{ path={command.split()[0]} ; argv[]={command} ; pid=0 }}\nId=x.service\nStandardInput={reads}"
    assert accounts.parse_services(shown) == found


PROCESSES = ["40", "1 0 /dev/null /sbin/init", "7 1 /dev/ttyS0 /sbin/agetty - vt220", "8 1 /dev/tty1 -bash",
             "9 1 socket:[7] /usr/bin/chronyd", "30 1 /dev/hvc0 /bin/login -p -- root", "35 30 /dev/hvc0 -bash",
             "40 35 pipe:[9] sh -c x", "41 40 /dev/hvc0 cat", "50 2 - "]  # fmt: skip


def test_what_reads_from_a_console_and_has_not_asked_is_found() -> None:
    assert accounts.parse_processes(PROCESSES) == ["process 8 -bash"]
    assert accounts.parse_processes([]) == []
