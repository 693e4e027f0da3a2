"""Helpers for tests of several packages: paths, fakes, machines, images."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SUITES = ROOT / "suites"
#: The JUnit XML that Jenkins accepts.
JUNIT_SCHEMA = Path(__file__).with_name("junit-10.xsd")
