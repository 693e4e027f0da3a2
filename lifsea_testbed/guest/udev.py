"""udev: the rules that are left of it."""

from __future__ import annotations

from lifsea_testbed.support.protocols import Shell

# udev(7), "Rules Files": where rules lie.
_RULES = """
for directory in /etc/udev/rules.d /run/udev/rules.d /usr/local/lib/udev/rules.d /usr/lib/udev/rules.d; do
    cat "$directory"/*.rules 2>/dev/null
done
exit 0
"""


def rules(shell: Shell) -> list[str]:
    """Returns the rules of all files together."""
    return parse_rules(shell.run(_RULES).stdout)


def parse_rules(text: str) -> list[str]:
    """Reads rules (udev(7)): one a line, a backslash at its end goes on, # starts a comment."""
    lines = map(str.strip, text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
