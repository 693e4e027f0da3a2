"""`lifsea-testbed explain`: a claim's promise, how it is judged, and what breaks it."""

from __future__ import annotations

import argparse

from lifsea_testbed.profiles import explanation


def run(options: argparse.Namespace) -> None:
    """Prints the explanation of one claim, or the list of all claims."""
    print(explanation.explain(options.claim) if options.claim else explanation.overview())
