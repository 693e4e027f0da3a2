"""Access methods: the ways from a console to the prompt of a root shell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lifsea_testbed.console.login import log_in
from lifsea_testbed.errors import ProfileRefused
from lifsea_testbed.profiles.profile import OPENED_BY_USER_DATA, AccessMethod, AccessSection
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.protocols import Console


class ConsoleAccess(Protocol):
    """Brings a console to the prompt of a root shell."""

    def __call__(self, console: Console, access: AccessSection, deadline: Deadline) -> object:
        """Brings the console to the prompt; it is called again, until the deadline, if no shell answers there.

        Raises:
            WaitTimedOut: the console did not reach the prompt.
        """
        ...


def _at_prompt(console: Console, access: AccessSection, deadline: Deadline) -> None:
    """Does nothing: a getty logs root in by itself, or the console is a shell."""


_BUILT_IN: dict[str, ConsoleAccess] = {AccessMethod.LOGIN: log_in, AccessMethod.PROMPT: _at_prompt}


def console_access(name: str, further: Mapping[str, ConsoleAccess]) -> ConsoleAccess:
    """Returns the access method of that name, built in or one of the further ones.

    Raises:
        ProfileRefused: the name is unknown.
    """
    known = {**_BUILT_IN, **further}
    if name not in known:
        names = ", ".join([*(method for method in AccessMethod if method not in _BUILT_IN), *known])
        raise ProfileRefused(f"access.methods: unknown access method {name!r}", hint=f"one of {names}")
    return known[name]


def require_methods(access: AccessSection, further: Mapping[str, ConsoleAccess]) -> None:
    """Makes sure that each access method of a profile exists.

    Raises:
        ProfileRefused: one is unknown.
    """
    for method in access.methods:
        if method not in (*OPENED_BY_USER_DATA, AccessMethod.NONE):
            console_access(method, further)
