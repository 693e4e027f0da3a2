"""The policy of the system bus: which well-known names it lets a program own (dbus-daemon(1), <policy>). Pure."""

from __future__ import annotations

import re

#: Where dbus-daemon and dbus-broker read the policy of the system bus, in this order.
FILES = ("/usr/share/dbus-1/system.conf", "/etc/dbus-1/system.conf", "/etc/dbus-1/system-local.conf",
         "/usr/share/dbus-1/system.d/*.conf", "/etc/dbus-1/system.d/*.conf")  # fmt: skip
#: Directories and files that FILES cover, as the files name them: relative to their own directory, or whole.
_KNOWN = {"system.d", "/etc/dbus-1/system.d", "/usr/share/dbus-1/system.d", "/etc/dbus-1/system.conf",
          "/etc/dbus-1/system-local.conf", "contexts/dbus_contexts"}  # fmt: skip
_INCLUDED = re.compile(r"<include(?:dir)?\b[^<>]*>([^<>]*)<")
_ALLOWED = re.compile(r"<allow\b([^<>]*)>")
_OWNED = re.compile(r"""\bown(_prefix)?\s*=\s*(?:"([^"]*)"|'([^']*)')""")


def parse_grants(name: str, text: str) -> bool:
    """Returns whether a file of the policy may let a program own the name; the bus denies what no file allows.

    One that includes others than FILES may: what they allow is not known.
    """
    if any(included.strip() not in _KNOWN for included in _INCLUDED.findall(text)):
        return True
    owned = (found for rule in _ALLOWED.findall(text) for found in _OWNED.findall(rule))
    return any(_covers(double or single, name, is_prefix=bool(prefix)) for prefix, double, single in owned)


def _covers(owned: str, name: str, *, is_prefix: bool) -> bool:
    return owned in ("*", name) or (is_prefix and name.startswith(f"{owned}."))
