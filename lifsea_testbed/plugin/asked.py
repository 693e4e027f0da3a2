"""What a process of the run was asked for beside the command line's own options: by its main process, by plugins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lifsea_testbed.machine.found import Found
from lifsea_testbed.report.signature import PASSWORD, Signer


def told(config: pytest.Config, name: str) -> Any:
    """Returns what the main process told this worker, if it is one."""
    return getattr(config, "workerinput", {}).get(name)


def found(config: pytest.Config) -> Found | None:
    """Returns what the main process found out, to a worker.

    Raises:
        ImageRefused: an image was changed since.
    """
    facts = told(config, "lifsea_found")
    return Found.known_by(facts) if facts else None


def signer(config: pytest.Config) -> Signer | None:
    """Returns what signs the verdict, to the main process, if it is to be signed."""
    path = config.option.sign_with
    if path is None or hasattr(config, "workerinput"):
        return None
    return Signer(Path(path), os.environ.get(PASSWORD, ""))


def reruns(config: pytest.Config) -> int:
    """Returns how often pytest-rerunfailures was told to run a test again, by option or in the configuration."""
    option = getattr(config.option, "reruns", None)
    if option is not None or not config.pluginmanager.has_plugin("rerunfailures"):
        return option or 0
    written = str(config.getini("reruns") or "0")
    return int(written) if written.isdecimal() else 0
