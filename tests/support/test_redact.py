"""Secrets appear in no record and in no output."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifsea_testbed.console.transcript import LineReader
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.ecs.instance_types import DEFAULT, find
from lifsea_testbed.ecs.metadata import Metadata, Request
from lifsea_testbed.errors import CommandFailed, ProfileRefused
from lifsea_testbed.machine.postmortem import Records
from lifsea_testbed.support.redact import MASK, Redactor, redact

SECRET = "c2VjcmV0LXZhbHVlLTEyMzQ1Njc4OTA"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize("text", [
    f"X-aliyun-ecs-metadata-token: {SECRET}",
    f'curl -H "X-aliyun-ecs-metadata-token:{SECRET}" http://100.100.100.200/latest/meta-data/',
    f"    client-key-data: {SECRET}",
    f"    token: {SECRET}",
    f"token={SECRET}",
    f'{{"AccessKeySecret" : "{SECRET}", "Expiration": "x"}}',
    f'"SecurityToken":"{SECRET}"',
    f"Authorization: Bearer {SECRET}",
    f"kubeadm join 10.0.0.1:6443 --token {SECRET}",
    f"kubelet --password={SECRET}",
    f"PASSWORD='{SECRET}'",
    f"root:$6$salt${SECRET}:19000:0:99999:7:::",
    f"$y$j9T${SECRET}",
    f"eyJhbGciOiJSUzI1NiJ9.{SECRET}.{SECRET}",
    f"LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQ{SECRET}",
    PEM,
    f"user-data: {PEM} and more",
    PEM.replace("\n", " "),
])  # fmt: skip
def test_secrets_are_masked(text: str) -> None:
    assert SECRET not in redact(text)
    assert MASK in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", [
    "[    1.204511] systemd[1]: Started Forward Password Requests to Wall Directory Watch.",
    "GET /latest/api/token 200", "X-aliyun-ecs-metadata-token-ttl-seconds: 60", "lifsea login: ", "Password: ",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUI",
    "root:*:19000:0:99999:7:::", "costs $5 and $6", "sysctl kernel.random.boot_id", "tokens=3",
])  # fmt: skip
def test_the_rest_stays(text: str) -> None:
    assert redact(text) == text


def test_the_text_around_a_secret_stays() -> None:
    assert redact(f"a token: {SECRET}, b") == f"a token: {MASK}, b"
    assert redact(f"before\n{PEM}\nafter") == f"before\n{MASK}\n{MASK}\n{MASK}\n{MASK}\nafter"


def test_a_key_that_never_ends_hides_no_more_than_a_key() -> None:
    lines = redact("\n".join(["-----BEGIN PRIVATE KEY-----", *["x"] * 300])).splitlines()
    assert (lines.count(MASK), lines.count("x")) == (257, 44)


def test_a_key_is_masked_that_comes_line_by_line_over_the_console() -> None:
    reader = LineReader(Redactor())
    seen: list[str] = []
    for byte in PEM.replace("\n", "\r\n").encode():
        seen += [*(line.text for line in reader.feed(bytes([byte]), 0.0)), reader.unfinished]
    assert MASK in seen and not any(SECRET[:9] in text for text in [*seen, *(line.text for line in reader.flush())])


def test_tokens_and_user_data_are_redacted_by_value(tmp_path: Path) -> None:
    metadata = Metadata(Instance(type=find(DEFAULT)), user_data=b"")
    header = {"x-aliyun-ecs-metadata-token-ttl-seconds": "60"}
    token = metadata.answer(Request(method="PUT", path="/latest/api/token", headers=header)).body.decode()
    records = Records(tmp_path, Redactor(lambda: [*metadata.tokens, "echo the secret of the house"]))
    records.append("transcript.txt", f"+ {token}\n")
    records.write("journal.txt", "runs: echo the secret of the house\n\x1b[31m")
    assert (tmp_path / "transcript.txt").read_text() == f"+ {MASK}\n"
    assert (tmp_path / "journal.txt").read_text() == f"runs: {MASK}\n"


def test_an_error_carries_no_secret_but_what_the_user_typed() -> None:
    error = CommandFailed(f"token={SECRET}", evidence=PEM)
    assert SECRET not in f"{error} {error.args} {error.one_line}"
    assert str(ProfileRefused("metadata.token: Input is wrong")) == "metadata.token: Input is wrong"


def test_a_record_is_bounded_and_says_what_is_missing(tmp_path: Path) -> None:
    records = Records(tmp_path, Redactor())
    for _ in range(6):
        records.append("qmp.txt", "x" * (1 << 20))
    text = (tmp_path / "qmp.txt").read_text()
    assert len(text) < (4 << 20) + 100 and text.endswith("x... cut at 4 MiB ...\n")
    records.write("journal.txt", f"begin\ntoken: {SECRET}\n{'é' * (4 << 20)}\nend\n")
    text = (tmp_path / "journal.txt").read_text()
    assert len(text.encode()) <= 4 << 20 and text.startswith(f"begin\ntoken: {MASK}\n") and text.endswith("\nend\n")
    assert "bytes are left out here" in text

    def fail(path: Path) -> None:
        raise CommandFailed("QEMU is gone", evidence="…")

    for _ in range(2):
        records.attempt("screen.png", fail)
    assert (tmp_path / "missing.txt").read_text() == "screen.png: QEMU is gone\n"


@given(st.text())
def test_masking_keeps_the_number_of_lines(text: str) -> None:
    assert redact(text).count("\n") == text.count("\n")
