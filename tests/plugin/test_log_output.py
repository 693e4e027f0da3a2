"""No line that a run prints of a guest is a command to the CI system whose log it is; reports keep the words."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.quick import lay_out

SUITE = '''
import pytest
from lifsea_testbed import CommandFailed, NotJudged, Reason, claim

GUEST = "::error file=x::y\\n##[command]z\\n  ::stop-commands::t"

@claim("no-sshd")
def test_a_command_fails():
    print(GUEST)
    raise CommandFailed("status 1 from: ls " + GUEST.replace("\\n", " "), evidence=GUEST)

@claim("no-python")
def test_an_assertion_fails():
    assert [GUEST] == [], GUEST

@claim("shell-kept")
def test_is_not_judged():
    raise NotJudged(GUEST, Reason.IMAGE)
'''
COMMANDS = re.compile(r"^\s*(?:::|--- |\+\+\+ |section_)|##\w*\[", re.MULTILINE)


@pytest.mark.parametrize("ci", ["", "true"])
@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_guest_gives_no_command_to_the_ci_system(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch,
                                                   workers: tuple[str, ...], ci: str) -> None:  # fmt: skip
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    result = pytester.runpytest_subprocess(*lay_out(pytester.path, SUITE), "-p", "no:hypothesispytest", "-rA", *workers)
    shown = result.stdout.str() + result.stderr.str()
    assert result.ret == 1 and shown.count("error file=x::y") > 4
    assert COMMANDS.findall(shown) == []
    kept = (pytester.path / "reports/evidence").glob("*/explanation.txt")
    assert all("##[command]z" in path.read_text() for path in kept)
    assert "##[command]z" in json.dumps(json.loads((pytester.path / "reports/gate.json").read_text()))
