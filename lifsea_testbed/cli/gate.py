"""`lifsea-testbed gate`: merges the gate.json of shards, verifies a signed one, and prints the schema."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path

from lifsea_testbed.errors import CallerError
from lifsea_testbed.report import document, junit, markdown, merge, signature, terminal
from lifsea_testbed.report.directory import GATE, VERDICT, ReportsDirectory
from lifsea_testbed.support.whole_file import write_whole


def join(options: argparse.Namespace) -> int:
    """Merges the gate.json of each shard into a directory of reports, and returns the exit status of the verdict."""
    signer = _signer(options.sign_with) if options.sign_with else None
    joined = merge.merge([(str(path), _moved_below(options.output, path)) for path in options.files])
    durations = _durations(options.files)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(ReportsDirectory(options.output, VERDICT, option="--output")) as reports:
            _write(joined, reports, durations, signer)
            reports.publish()
    except OSError as error:
        raise CallerError(f"--output {options.output}: cannot be written: {error.strerror}",
                          hint="choose another directory") from None
    print(terminal.verdict(joined, str(options.output / GATE)))
    return joined.exit_status


def _write(joined: document.Document, reports: ReportsDirectory, durations: dict[str, float],
           signer: signature.Signer | None) -> None:  # fmt: skip
    joined.write(reports.work / GATE)
    junit.write(joined, reports.work / "junit.xml", durations=durations, reports=reports.path)
    write_whole(reports.work / "summary.md", markdown.summary(joined))
    if signer:
        signer.sign(reports.work / GATE, joined)


def verify(options: argparse.Namespace) -> int:
    """Checks the signature of a gate.json, prints its verdict, and returns the exit status of the verdict."""
    content = document.content(options.file)
    comment = signature.verify(options.file, content, options.public_key)
    signed = document.parse(content, options.file)
    if options.image:
        _require_same(options.image, signed)
    print(f"signed: {comment}")
    print(terminal.verdict(signed, str(options.file)))
    return signed.exit_status


def print_schema(options: argparse.Namespace) -> int:
    """Prints the JSON Schema of gate.json."""
    print(json.dumps(document.schema(), indent=2))
    return 0


def _require_same(path: Path, signed: document.Document) -> None:
    from lifsea_testbed.disk.image import digest

    try:
        found = digest(path)
    except OSError as error:
        raise CallerError(f"--image {path}: cannot be read: {error.strerror}", hint="check the path") from None
    if found != signed.image.sha256:
        raise CallerError(f"--image {path}: not the image that was judged: its digest is {found}",
                          hint=f"the verdict is on {signed.image.name}, {signed.image.sha256}")  # fmt: skip


def _signer(path: Path) -> signature.Signer:
    try:
        return signature.Signer(path, os.environ.get(signature.PASSWORD, ""))
    except CallerError as error:
        option = "--sign-with " if error.happened.startswith(f"{path}: ") else ""
        raise CallerError(f"{option}{error.happened}", hint=error.hint) from None


def _moved_below(output: Path, path: Path) -> document.Document:
    return merge.moved(document.read(path), os.path.relpath(path.parent.resolve(), output.resolve()))


def _durations(paths: list[Path]) -> dict[str, float]:
    """The duration of each test (seconds), from the run.json beside each file, where there is one."""
    durations: dict[str, float] = {}
    for path in paths:
        try:
            tests = json.loads(path.with_name("run.json").read_text("utf-8"))["tests"]
            durations.update({str(test): float(seconds) for test, seconds in tests.items()})
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
    return durations
