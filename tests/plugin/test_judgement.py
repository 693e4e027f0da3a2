"""Whose fault an exception of pytest's own is, and what the tests of the hardware's model may say."""

from __future__ import annotations

import json
import types

import pytest

from lifsea_testbed.errors import Blame, BootFailed, GuestCrashed, HostError, NotJudged, Reason
from lifsea_testbed.plugin.judgement import judge_test
from lifsea_testbed.report.outcome import Status
from tests.support.quick import lay_out


def raised(source: str, module: str = "test_suite") -> BaseException:
    """The exception that a statement raises in a module of that name."""
    namespace = types.ModuleType(module)
    exec(f"import pytest\ndef run():\n    {source}\n", vars(namespace))
    with pytest.raises(BaseException) as caught:
        namespace.run()
    return caught.value


def item(pytester: pytest.Pytester, *marks: str) -> pytest.Item:
    lines = "".join(f"@pytest.mark.{mark}\n" for mark in marks)
    return pytester.getitem(f"import pytest\n{lines}def test_func(): pass")


@pytest.mark.parametrize(("source", "module", "status", "blame"), [
    ('pytest.fail("sshd is there")', "test_suite", Status.FAILED, Blame.PRODUCT),
    ('pytest.fail("sshd is there", pytrace=False)', "conftest", Status.FAILED, Blame.PRODUCT),
    ("with pytest.raises(KeyError): pass", "test_suite", Status.FAILED, Blame.PRODUCT),
    ('pytest.fail("Timeout (>10.0s) from pytest-timeout.")', "pytest_timeout", Status.BROKEN, Blame.HARNESS),
    ('pytest.fail("fixture function has more than one yield")', "_pytest.fixtures", Status.BROKEN, Blame.HARNESS),
    ('pytest.skip("later")', "test_suite", Status.NOT_JUDGED, None),
    ('pytest.xfail("later")', "test_suite", Status.NOT_JUDGED, None),
    ('import unittest; raise unittest.SkipTest("later")', "test_suite", Status.NOT_JUDGED, None),
])  # fmt: skip
def test_whoever_calls_pytest_decides_whose_fault_it_is(
    pytester: pytest.Pytester, source: str, module: str, status: Status, blame: Blame | None
) -> None:
    judgement = judge_test(item(pytester), raised(source, module))
    assert (judgement.status, judgement.blame, judgement.reason) == (status, blame, None)


@pytest.mark.parametrize(("error", "status", "blame"), [
    (AssertionError("4096 == 8192"), Status.BROKEN, Blame.HARNESS),
    (GuestCrashed("the guest's kernel panicked"), Status.BROKEN, Blame.HARNESS),
    (HostError("no memory"), Status.BROKEN, Blame.HOST),
    (NotJudged("emulated", Reason.HOST), Status.NOT_JUDGED, None),
    (None, Status.PASSED, None),
])  # fmt: skip
def test_a_test_of_the_hardware_never_blames_the_image(
    pytester: pytest.Pytester, error: BaseException | None, status: Status, blame: Blame | None
) -> None:
    judgement = judge_test(item(pytester, "hardware_model"), error)
    assert (judgement.status, judgement.blame) == (status, blame)


@pytest.mark.parametrize(("marks", "status", "blame"), [
    (['claim("boots-to-ready")'], Status.FAILED, Blame.PRODUCT), (['claim("no-sshd")'], Status.NOT_JUDGED, None),
    ([], Status.NOT_JUDGED, None), (["hardware_model"], Status.NOT_JUDGED, None),
], ids=str)  # fmt: skip
def test_an_image_that_did_not_come_up_breaks_one_claim(
    pytester: pytest.Pytester, marks: list[str], status: Status, blame: Blame | None
) -> None:
    error = BootFailed("no root shell")
    error.kept_image_down = True
    judgement = judge_test(item(pytester, *marks), error)
    assert (judgement.status, judgement.blame) == (status, blame)
    assert judgement.reason == (Reason.IMAGE if status is Status.NOT_JUDGED else None)


DOWN = """
import pytest
from lifsea_testbed import BootFailed, claim

def down():
    error = BootFailed("no root shell within 9 s")
    error.kept_image_down = True
    raise error

@claim("boots-to-ready")
def test_boot():
    {boot}

@claim("no-sshd")
def test_sshd():
    down()

@claim("no-python")
def test_python():
    pass

@claim("shell-kept")
def test_shell():
    pass
"""


@pytest.mark.parametrize(("boot", "why"), [
    ("down()", "not kept: boots-to-ready"), ("pass", "the image did not come up: no root shell within 9 s"),
], ids=["each time", "once"])  # fmt: skip
def test_an_image_that_did_not_come_up_never_passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, boot: str, why: str
) -> None:
    """Neither for all tests, nor for one of them alone."""
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    result = pytester.runpytest_subprocess(*lay_out(pytester.path, DOWN.format(boot=boot)), "-p", "no:hypothesispytest")
    gate = json.loads((pytester.path / "reports/gate.json").read_text())
    assert (result.ret, gate["verdict"], gate["why"], gate["not_judged"]) == (1, "fail", why, {"image": 1})


SUITE = """
import pytest
from lifsea_testbed import NotJudged, Reason, claim

@claim("boots-to-ready")
def test_boot():
    pass

@claim("no-sshd")
def test_sshd():
    pass

@claim("no-python")
def test_python():
    raise NotJudged("nothing to compare with", Reason.OPTION)

@claim("shell-kept")
def test_shell():
    raise NotJudged("no way to see it", Reason.IMAGE)

@pytest.mark.hardware_model
def test_memory():
    {memory}
"""


@pytest.mark.parametrize(("options", "memory", "status", "line"), [
    ([], "pass", 0, "verdict: pass, 2 claims not judged: 1 by option, 1 by image - quick: 2 passed, 2 not judged of 4 "
     "claims; not judged: no-python (option), shell-kept (image) (reports/gate.json)"),
    ([], "pytest.skip('no')", 0, "verdict: pass, 2 claims not judged: *"),
    ([], "assert 4096 == 8192", 6, "verdict: broken - quick: *; broken: test_suite.py::test_memory (*"),
    (["--require", "host,option"], "pass", 7,
     "verdict: not judged - quick: *; required, but not judged: no-python (option) (*"),
    (["--require=shell-kept", "--require", "no-sshd", "-n", "1"], "pass", 7,
     "verdict: not judged - quick: *; required, but not judged: shell-kept (image) (*"),
    (["--require", "host"], "pass", 0, "verdict: pass, 2 claims not judged: *"),
])  # fmt: skip
def test_a_pass_never_hides_what_was_not_judged(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str], memory: str, status: int, line: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    always = lay_out(pytester.path, SUITE.format(memory=memory))
    result = pytester.runpytest_subprocess(*always, "-p", "no:hypothesispytest", *options)
    assert result.ret == status
    pytest.LineMatcher(result.outlines[-1:]).fnmatch_lines([line])
    gate = json.loads((pytester.path / "reports/gate.json").read_text())
    assert gate["not_judged"] == {"option": 1, "image": 1} and len(gate["claims"]) == 4
    assert (pytester.path / "reports/summary.md").read_text().startswith("## ❔ not judged" if status == 7 else "## ")


@pytest.mark.parametrize("word", ["hosts", "host,", "no-ssh"])
def test_an_unknown_requirement_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    result = pytester.runpytest_subprocess(*lay_out(pytester.path, SUITE.format(memory="pass")), "--require", word)
    assert result.ret == 4
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: --require ")
    assert "(hint: one of all, host, image, profile, option, or a claim" in line
