"""Samples as JSON lines: the format of metrics.jsonl, and of exported histories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from lifsea_testbed.errors import CallerError
from lifsea_testbed.perf.metric import Sample
from lifsea_testbed.support.sanitize import printable
from lifsea_testbed.support.whole_file import replaced

SCHEMA = 1
#: The longest text that a name, a link or a definition may have (characters).
_LONGEST = 4096
_READER = TypeAdapter(Sample)


def write(samples: Iterable[Sample], file: IO[str]) -> int:
    """Writes each sample as one line, and returns their number."""
    count = 0
    for sample in samples:
        file.write(json.dumps({"schema": SCHEMA, "id": sample.id, **asdict(sample)}, separators=(",", ":")) + "\n")
        count += 1
    return count


def save(samples: Iterable[Sample], path: Path) -> int:
    """Writes the file whole or not at all, and returns the number of samples in it."""
    with replaced(path) as file:
        return write(samples, file)


def read(lines: Iterable[str], source: str) -> Iterator[Sample]:
    """Yields the samples of a file, which is not trusted.

    Raises:
        CallerError: a line is not a sample, or its id does not match its content.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _sample(line, f"{source}: line {number}")


def _sample(line: str, place: str) -> Sample:
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.pop("schema", None) != SCHEMA:
            raise CallerError(f"{place} is not a sample of schema {SCHEMA}", hint="export it with this version")
        identifier = fields.pop("id", None)
        sample = _READER.validate_python(fields)
        if sample.id == identifier and all(map(_is_clean, _texts(fields))):
            return sample
    except ValidationError as error:
        what = error.errors()[0]
        where = ".".join(map(str, what["loc"]))
        raise CallerError(f"{place} is not a sample: {printable(where)}: {what['msg']}",
                          hint="export it again") from None
    except (ValueError, RecursionError):
        raise CallerError(f"{place} is not a sample", hint="export it again") from None
    raise CallerError(f"{place}: the sample's id does not match its content",
                      hint="the line was changed; export it again")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _is_clean(text: str) -> bool:
    return len(text) <= _LONGEST and printable(text) == text
