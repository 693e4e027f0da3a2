"""Merged shards: only a complete set of one image passes; minisign itself verifies the signatures."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import minisign
import pytest
import xmlschema

from lifsea_testbed.cli.main import main
from lifsea_testbed.errors import CallerError
from lifsea_testbed.report import document, gate, junit, markdown, signature
from lifsea_testbed.report.document import (
    Document,
    Host,
    ImageRecord,
    IssueRecord,
    IssueState,
    KnownIssues,
    RunRecord,
    Shard,
    Verdict,
)
from lifsea_testbed.report.gate import TestOutcome
from lifsea_testbed.report.merge import merge
from lifsea_testbed.report.outcome import Status
from lifsea_testbed.report.signature import PASSWORD
from lifsea_testbed.support.firmware import Firmware
from tests.support import JUNIT_SCHEMA

PROMISES = {"no-sshd": "A.", "no-python": "B.", "no-initramfs": "C."}
IMAGE = ImageRecord(name="out.qcow2", sha256="0" * 64, format="qcow2", virtual_size=1 << 30, file_size=1 << 20)
PLAN = "0123456789abcdef"
HOST = Host(processor="any", cores=2, memory=4096, kernel="6.1")
#: What each shard knows: all judges, of which it runs a part.
JUDGES = {claim: [f"t::{claim}"] for claim in PROMISES}


def shard(index: int, *outcomes: TestOutcome, count: int = 3, **changes: object) -> Document:
    part = Shard(index=index, count=count, plan=PLAN)
    run = RunRecord(shard=part, host=HOST, accelerator="tcg", tools={"qemu": "8.1.0"})
    made = Document(
        testbed="0.1.0", verdict=Verdict.NOT_JUDGED, exit_status=7, why="a shard", image=IMAGE, profile="reference",
        instance_type="ecs.g7.large", selected=[], shard=part, runs=[run],
        claims=gate.settle(PROMISES, outcomes, judges=JUDGES),
    )  # fmt: skip
    return made.model_copy(update=changes)


def outcome(claim: str, status: Status = Status.PASSED, test: str = "t") -> TestOutcome:
    reason = "profile" if status is Status.NOT_JUDGED else ""
    return TestOutcome(claim=claim, test=f"{test}::{claim}", status=status, why=str(status), reason=reason)


def whole(last: Status = Status.PASSED) -> list[Document]:
    return [shard(1, outcome("no-sshd")), shard(2, outcome("no-python")), shard(3, outcome("no-initramfs", last))]


def named(documents: Sequence[Document]) -> list[tuple[str, Document]]:
    return [(f"{number}/gate.json", each) for number, each in enumerate(documents)]


def test_a_complete_set_passes_in_any_order() -> None:
    texts = {merge(named(order)).text() for order in itertools.permutations(whole())}
    assert len(texts) == 1
    merged = merge(named(whole()))
    assert (merged.verdict, merged.exit_status, merged.shard) == (Verdict.PASS, 0, None)
    assert [str(run.shard) for run in merged.runs] == ["1/3", "2/3", "3/3"]


@pytest.mark.parametrize(("documents", "verdict", "why"), [
    (whole()[:2], Verdict.NOT_JUDGED, "shard 3/3 missing"),
    (whole()[2:], Verdict.NOT_JUDGED, "shard 1/3 missing; shard 2/3 missing"),
    ([*whole(), whole()[1]], Verdict.NOT_JUDGED, "shard 2/3 is given 2 times"),
    ([*whole(), shard(4)], Verdict.NOT_JUDGED, "shard 4/3 does not exist"),
    (whole(Status.FAILED), Verdict.FAIL, "not kept: no-initramfs"),
    ([whole()[0], whole(Status.FAILED)[2]], Verdict.FAIL, "not kept: no-initramfs; shard 2/3 missing"),
    (whole(Status.BROKEN), Verdict.BROKEN, "broken: no-initramfs"),
    ([*whole()[:2], shard(3)], Verdict.NOT_JUDGED, "not run: no-initramfs (t::no-initramfs)"),
    (whole(Status.NOT_JUDGED), Verdict.NOT_JUDGED, "the profile has no data to judge: no-initramfs"),
    ([*whole()[:2], shard(3, outcome("no-initramfs"), image=IMAGE.model_copy(update={"sha256": "1" * 64}))],
     Verdict.NOT_JUDGED, "2/gate.json is foreign: another image; shard 3/3 missing"),
    ([*whole()[:2], shard(3, outcome("no-initramfs"), profile="lifsea-3.3")], Verdict.NOT_JUDGED,
     "2/gate.json is foreign: another profile; shard 3/3 missing"),
    ([*whole()[:2], shard(3, outcome("no-initramfs"), firmware=Firmware.UEFI)], Verdict.NOT_JUDGED,
     "2/gate.json is foreign: another firmware; shard 3/3 missing"),
    ([*whole()[:2], shard(3, outcome("no-initramfs"), testbed="0.2.0")], Verdict.NOT_JUDGED,
     "2/gate.json is foreign: another version of the test bed; shard 3/3 missing"),
    ([*whole()[:2], shard(3, outcome("no-initramfs"), selected=["no-initramfs"])], Verdict.NOT_JUDGED,
     "2/gate.json is foreign: another selection; shard 3/3 missing"),
    ([*whole()[:2], shard(3, shard=Shard(index=3, count=3, plan="another"))], Verdict.NOT_JUDGED,
     "2/gate.json is foreign: another plan of shards; shard 3/3 missing"),
    ([*whole()[:2], shard(3, outcome("no-initramfs"), required=["all"])], Verdict.NOT_JUDGED,
     "2/gate.json is foreign: another requirement; shard 3/3 missing"),
    ([*whole()[:2], shard(3, count=4)], Verdict.NOT_JUDGED,
     "2/gate.json is foreign: another number of shards; shard 3/3 missing"),
])  # fmt: skip
def test_nothing_less_than_a_whole_set_passes(documents: list[Document], verdict: Verdict, why: str) -> None:
    merged = merge(named(documents))
    assert (merged.verdict, merged.why) == (verdict, why)


def test_a_claim_whose_tests_are_spread_is_as_good_as_the_worst() -> None:
    documents = whole()
    documents[0] = shard(1, outcome("no-sshd"), outcome("no-python", Status.FAILED, "u"))
    merged = {claim.id: claim for claim in merge(named(documents)).claims}
    assert (merged["no-python"].status, len(merged["no-python"].tests)) == (Status.FAILED, 2)


def unfinished(document: Document) -> Document:
    """The document as it is while the shard still runs."""
    assert document.shard
    return document.model_copy(update={"verdict": Verdict.BROKEN, "finished": False, "troubles": ["it was killed"],
                                       "shard": document.shard.model_copy(update={"plan": ""})})


@pytest.mark.parametrize(("documents", "verdict", "why"), [
    ([unfinished(each) for each in whole()], Verdict.BROKEN, "0/gate.json: shard 1/3 did not come to its end"),
    ([unfinished(shard(1, *map(outcome, PROMISES), count=1))], Verdict.BROKEN, "shard 1/1 did not come to its end"),
    ([*whole()[:2], unfinished(whole()[2])], Verdict.BROKEN, "2/gate.json: shard 3/3 did not come to its end"),
    ([*whole()[:2], unfinished(whole(Status.FAILED)[2])], Verdict.FAIL, "not kept: no-initramfs"),
    ([*whole()[:2], shard(3, outcome("no-initramfs"), shard=Shard(index=3, count=3))], Verdict.BROKEN,
     "2/gate.json: shard 3/3 has no plan of the shards"),
    ([shard(1, *map(outcome, PROMISES), shard=Shard(index=1, count=1))], Verdict.BROKEN, "no plan of the shards"),
    ([*whole()[:2], shard(3, outcome("no-initramfs"), troubles=["pytest stopped early (interrupted)"])],
     Verdict.BROKEN, "pytest stopped early (interrupted)"),
])  # fmt: skip
def test_shards_that_did_not_come_to_their_end_never_pass(
    documents: list[Document], verdict: Verdict, why: str
) -> None:
    merged = merge(named(documents))
    assert (merged.verdict, merged.exit_status) == (verdict, verdict.exit_status) and why in merged.why


def test_the_hardware_of_every_host_is_in_the_merged_verdict() -> None:
    broken = gate.records([TestOutcome(test="t::memory", status=Status.BROKEN, hardware=True)])
    sound = gate.records([TestOutcome(test="t::clock", status=Status.PASSED, hardware=True)])
    documents = whole()
    for number, tests in enumerate((sound, broken)):
        documents[number] = documents[number].model_copy(update={"hardware": tests})
    merged = merge(named(documents))
    assert (merged.verdict, merged.why) == (Verdict.BROKEN, "broken: t::memory")
    assert [test.id for test in merged.hardware] == ["t::clock", "t::memory"]


def test_counts_and_requirements_are_those_of_the_whole() -> None:
    unjudged = TestOutcome(claim="no-initramfs", test="t::no-initramfs", status=Status.NOT_JUDGED, reason="host")
    merged = merge(named([*whole()[:2], shard(3, unjudged)]))
    assert (merged.verdict, merged.not_judged) == (Verdict.PASS, {"host": 1})
    required = [each.model_copy(update={"required": ["host"]}) for each in (*whole()[:2], shard(3, unjudged))]
    assert merge(named(required)).why.startswith("required, but not judged: no-initramfs (host)")


def test_a_known_issue_that_one_shard_saw_was_seen() -> None:
    def issues(state: IssueState) -> KnownIssues:
        issue = IssueRecord(claim="no-python", link="https://a", owner="o", since="", expires="", extensions=0,
                            state=state)  # fmt: skip
        return KnownIssues(as_of="2026-11-25", issues=[issue])

    for states, joined in (((IssueState.NOT_SEEN, IssueState.GONE, IssueState.NOT_SEEN), IssueState.GONE),
                           ((IssueState.NOT_SEEN, IssueState.SEEN, IssueState.NOT_SEEN), IssueState.SEEN)):
        documents = [each.model_copy(update={"known_issues": issues(state)})
                     for each, state in zip(whole(), states, strict=True)]  # fmt: skip
        merged = merge(named(documents)).known_issues
        assert merged is not None and [issue.state for issue in merged.issues] == [joined]


def test_a_run_that_was_no_shard_is_not_merged() -> None:
    with pytest.raises(CallerError, match=r"not the gate\.json of a shard"):
        merge(named([shard(1, shard=None)]))


def written(directory: Path, documents: Sequence[Document]) -> list[str]:
    paths = [directory / str(number) / "gate.json" for number in range(len(documents))]
    for path, each in zip(paths, documents, strict=True):
        path.parent.mkdir()
        each.write(path)
        times = {"tests": {test.id: 1.5 for claim in each.claims for test in claim.tests}}
        path.with_name("run.json").write_text(json.dumps(times))
    return list(map(str, paths))


def test_merging_leaves_all_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["gate", "merge", *written(tmp_path, whole()[:2]), "-o", str(tmp_path / "out")])
    assert status == 7
    line = "verdict: not judged - reference: 2 passed, 1 not judged of 3 claims; shard 3/3 missing ("
    assert capsys.readouterr().out.startswith(line)
    jsonschema.validate(json.loads((tmp_path / "out/gate.json").read_text()), document.schema())
    xmlschema.XMLSchema(str(JUNIT_SCHEMA)).validate(str(tmp_path / "out/junit.xml"))
    assert 'time="1.500"' in (tmp_path / "out/junit.xml").read_text()
    assert (tmp_path / "out/summary.md").read_text() == markdown.summary(document.read(tmp_path / "out/gate.json"))


def test_evidence_is_relative_to_the_merged_verdict(tmp_path: Path) -> None:
    failed = TestOutcome(claim="no-sshd", test="t", status=Status.FAILED, why="sshd", evidence="evidence/t")
    (path,) = written(tmp_path, [shard(1, failed, count=1)])
    (tmp_path / "0/evidence/t").mkdir(parents=True)
    (tmp_path / "0/evidence/t/explanation.txt").write_text("CommandFailed: sshd is there")
    assert main(["gate", "merge", path, "-o", str(tmp_path / "out/reports")]) == 1
    claim = document.read(tmp_path / "out/reports/gate.json").claims[0]
    assert claim.evidence == claim.tests[0].evidence == ["../../0/evidence/t"]
    assert "CommandFailed: sshd is there" in (tmp_path / "out/reports/junit.xml").read_text()


@pytest.mark.parametrize(("content", "complaint"), [
    (None, "cannot be read"), ("{}", "not a gate.json of schema 3"), ("[", "not a gate.json"),
    ('{"schema": 2}', "not a gate.json of schema 3"),
])  # fmt: skip
def test_a_file_that_is_no_verdict_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / "gate.json").write_text(content)
    assert main(["gate", "merge", str(tmp_path / "gate.json"), "-o", str(tmp_path)]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ") and complaint in line


def test_the_published_schema_is_the_one_that_is_used() -> None:
    """After a change of the form: `python -m lifsea_testbed gate schema >lifsea_testbed/report/gate-3.schema.json`."""
    published = Path(document.__file__).with_name(f"gate-{document.SCHEMA}.schema.json")
    assert json.loads(published.read_text("utf-8")) == document.schema()
    jsonschema.Draft202012Validator.check_schema(document.schema())


def keys(directory: Path, password: str = "") -> tuple[Path, Path]:
    """A key pair as minisign itself makes it."""
    secret, public = directory / "key", directory / "key.pub"
    how = ["-W"] if not password else []
    subprocess.run(["minisign", "-G", *how, "-s", str(secret), "-p", str(public)], input=f"{password}\n" * 2, text=True,
                   check=True, capture_output=True)  # fmt: skip
    return secret, public


#: minisign makes it dear to try passwords: each use of such a key takes ten seconds and a GiB of memory.
_DEAR = pytest.param("correct horse", marks=pytest.mark.nightly)


@pytest.mark.parametrize("password", ["", _DEAR])
def test_minisign_itself_verifies_what_is_signed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    secret, public = keys(tmp_path, password)
    monkeypatch.setenv(PASSWORD, password)
    out = tmp_path / "out/gate.json"
    main(["gate", "merge", *written(tmp_path, whole()), "-o", str(out.parent), "--sign-with", str(secret)])
    subprocess.run(["minisign", "-V", "-q", "-p", str(public), "-m", str(out)], check=True)
    assert main(["gate", "verify", str(out), "-p", str(public)]) == 0
    out.write_text(out.read_text().replace("pass", "fail"))
    assert subprocess.run(["minisign", "-V", "-q", "-p", str(public), "-m", str(out)], check=False).returncode == 1


def test_what_minisign_signed_is_verified_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret, public = keys(tmp_path)
    (path,) = written(tmp_path, [shard(1, outcome("no-sshd", Status.FAILED), verdict=Verdict.FAIL, exit_status=1)])
    subprocess.run(["minisign", "-S", "-W", "-s", str(secret), "-m", path], check=True, capture_output=True)
    assert main(["gate", "verify", path, "-p", str(public)]) == 1
    (tmp_path / "other.qcow2").write_bytes(b"another image")
    assert main(["gate", "verify", path, "-p", str(public), "--image", str(tmp_path / "other.qcow2")]) == 4
    assert "not the image that was judged" in capsys.readouterr().err


def test_a_verdict_that_was_changed_or_is_another_s_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, public = keys(tmp_path)
    (path,) = written(tmp_path, [shard(1, count=1)])
    out = tmp_path / "out/gate.json"
    main(["gate", "merge", path, "-o", str(out.parent), "--sign-with", str(secret)])
    (tmp_path / "other.pub").write_bytes(bytes(minisign.KeyPair.generate().public_key))
    assert main(["gate", "verify", str(out), "-p", str(tmp_path / "other.pub")]) == 4
    out.write_text(out.read_text() + " ")
    assert main(["gate", "verify", str(out), "-p", str(public)]) == 4
    out.with_name("gate.json.minisig").unlink()
    assert main(["gate", "verify", str(out), "-p", str(public)]) == 4
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("ERROR: ") and "(hint: " in line for line in errors)


def test_what_is_verified_is_what_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is changed when its signature has just been verified."""
    secret, public = keys(tmp_path)
    out = tmp_path / "out/gate.json"
    files = written(tmp_path, whole(Status.FAILED))
    main(["gate", "merge", *files, "-o", str(out.parent), "--sign-with", str(secret)])
    verify = signature.verify

    def verify_then_change(path: Path, *others: Any) -> str:
        comment = verify(path, *others)
        merge(named(whole())).write(path)
        return comment

    monkeypatch.setattr(signature, "verify", verify_then_change)
    assert main(["gate", "verify", str(out), "-p", str(public)]) == 1
    assert document.read(out).verdict is Verdict.PASS and "verdict: fail" in capsys.readouterr().out.splitlines()[-1]


def test_a_signature_is_on_the_verdict_and_not_on_what_lies_in_its_file(tmp_path: Path) -> None:
    secret, public = keys(tmp_path)
    path = tmp_path / "gate.json"
    merge(named(whole())).write(path)
    signature.Signer(secret, "").sign(path, merge(named(whole(Status.FAILED))))
    assert main(["gate", "verify", str(path), "-p", str(public)]) == 4


def test_a_wrong_password_is_reported_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = minisign.KeyPair.generate().secret_key
    key.encrypt("correct horse", opslimit=minisign.OPSLIMIT // 1024, memlimit=minisign.MEMLIMIT // 1024)
    secret = tmp_path / "key"
    secret.write_bytes(bytes(key))
    monkeypatch.setenv(PASSWORD, "battery staple")
    files = written(tmp_path, whole())
    assert main(["gate", "merge", *files, "-o", str(tmp_path / "out"), "--sign-with", str(secret)]) == 4
    assert "wrong password" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_merged_verdict_replaces_the_earlier_one_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The explanation of a failure comes from the evidence of its shard, wherever the new files are written first."""
    (path,) = written(tmp_path, [shard(1, outcome("no-sshd", Status.FAILED), verdict=Verdict.FAIL, exit_status=1)])
    out = tmp_path / "out"
    assert main(["gate", "merge", str(path), "-o", str(out)]) in (1, 6)
    earlier = {each.name: each.read_bytes() for each in out.iterdir()}
    with monkeypatch.context() as context:
        context.setattr(junit, "write", _full)
        assert main(["gate", "merge", str(path), "-o", str(out)]) == 4
    assert {each.name: each.read_bytes() for each in out.iterdir()} == earlier
    assert "--output" in capsys.readouterr().err


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")
