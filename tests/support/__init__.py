"""What tests of several packages share: places, fakes, machines, images."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SUITES = ROOT / "suites"
#: What Jenkins accepts as JUnit.
JUNIT_SCHEMA = Path(__file__).with_name("junit-10.xsd")
