"""`lifsea-testbed history` and `dashboard`: import, export, merge and show histories of figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from lifsea_testbed.errors import CallerError
from lifsea_testbed.perf import dashboard as site
from lifsea_testbed.perf import exporters, jsonlines, sweeps, trend
from lifsea_testbed.perf.history import History
from lifsea_testbed.perf.metric import Better


def dashboard(options: argparse.Namespace) -> None:
    """Writes a history as a static site."""
    with _existing(options.history) as history, _writing(options.output):
        site.write(trend.trends(history), options.output)
    print(f"dashboard: {options.output / 'index.html'}")


def add_samples(options: argparse.Namespace) -> None:
    """Adds samples from JSON lines to a history."""
    with History(options.history) as history:
        for path in options.files:
            try:
                with path.open(encoding="utf-8", errors="replace") as file:
                    added = history.add(jsonlines.read(file, str(path)))
            except OSError as error:
                raise CallerError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from None
            print(f"{path}: {added} samples are new")


def add_sweep(options: argparse.Namespace) -> None:
    """Adds the figures of a sweep of power cuts to a history."""
    with History(options.history) as history:
        for path in options.files:
            print(f"{path}: {history.add(sweeps.read(path))} samples are new")


def export(options: argparse.Namespace) -> None:
    """Writes all samples of a history, or the newest ones in the format of another program."""
    with _existing(options.history) as history, _writing(options.output):
        if options.output is None:
            FORMATS[options.format](history, sys.stdout)
            return
        with options.output.open("w", encoding="utf-8") as file:
            FORMATS[options.format](history, file)


def merge(options: argparse.Namespace) -> None:
    """Adds every sample of another history to a history."""
    with _existing(options.other) as other, History(options.history) as history:
        print(f"{options.other}: {history.add(other.samples())} samples are new")


def _existing(place: str) -> History:
    """Opens the history at that path or URL; a file that does not exist is an error and is not created."""
    if "://" not in place and not Path(place).is_file():
        raise CallerError(f"{place}: no such history", hint="check the path")
    return History(place)


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f"--output {path}" if path else "standard output"
        raise CallerError(f"{where}: cannot be written: {error.strerror}", hint="choose another path") from None


def _write_lines(history: History, file: TextIO) -> None:
    jsonlines.write(history.samples(), file)


def _write_openmetrics(history: History, file: TextIO) -> None:
    file.write(exporters.openmetrics(trend.trends(history)))


def _write_benchmark(history: History, file: TextIO, *, better: str) -> None:
    file.write(exporters.github_action_benchmark(trend.trends(history), Better(better)))


def _write_grafana(history: History, file: TextIO) -> None:
    file.write(exporters.grafana())


FORMATS: dict[str, Callable[[History, TextIO], None]] = {
    "jsonl": _write_lines,
    "openmetrics": _write_openmetrics,
    "github-action-benchmark-smaller": partial(_write_benchmark, better="lower"),
    "github-action-benchmark-bigger": partial(_write_benchmark, better="higher"),
    "grafana": _write_grafana,
}
