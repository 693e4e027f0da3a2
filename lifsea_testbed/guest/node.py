"""The node: what tells one machine from another that runs the same image."""

from __future__ import annotations

from collections.abc import Iterable

from lifsea_testbed.support.protocols import Shell


def identity(shell: Shell, patterns: Iterable[str]) -> dict[str, str]:
    """Returns the digest of each file that fits one of the shell's patterns, by its path; empty ones have none."""
    script = f"for file in {' '.join(patterns)}; do [ -s \"$file\" ] && sha256sum \"$file\"; done; exit 0"
    return {path: digest for digest, path in map(str.split, shell.run(script).lines)}
