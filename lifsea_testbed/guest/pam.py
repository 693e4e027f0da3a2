"""The stacks of PAM (pam.d(5)): whether a service lets in somebody who knows no password."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lifsea_testbed.support.lines import split_lines

#: Where services are configured; the first that has a file counts.
DIRECTORIES = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/share/pam.d")
#: The services by which a person becomes another account.
SERVICES = ("login", "remote", "sshd", "su", "su-l", "sudo", "sudo-i", "cockpit", "gdm-password", "lightdm", "other")
#: Those run as root already: pam_rootok lets everybody in there.
_OF_ROOT = {"login", "remote", "sshd", "cockpit", "gdm-password", "lightdm"}
#: The controls in words, by what they stand for (pam.d(5)): the action on success, and on any failure.
_CONTROLS = {"required": ("ok", "bad"), "requisite": ("ok", "die"), "sufficient": ("done", "ignore"),
             "optional": ("ok", "ignore"), "binding": ("done", "bad")}  # fmt: skip
_LINE = re.compile(r"-?auth\s+(\[[^\]]*\]|\S+)\s+(\S+)")
#: How deeply files include others, and the lines of one service with all of them: those of a sound one are some 50.
_DEEPEST, _MOST_LINES = 8, 2000
#: Modules that ask for nothing, and what they return to somebody who has shown nothing.
_LETS_IN, _NEUTRAL = "success", "ignore"
_FAILING = re.compile(r"pam_(?:unix|deny|sss|ldap|krb5|winbind|faillock|tally2?|google_authenticator|u2f|fprintd)\b")


def admitting(texts: Mapping[str, str]) -> list[str]:
    """Returns the services whose stack succeeds although every module that asks for something was answered wrongly.

    `texts` are the files of pam.d by path. A module that is not known to ask is taken to have no opinion, so that a
    stack which it alone decides is not reported.
    """
    found = []
    for service in SERVICES:
        stack = _stack(texts, service, 0, iter(range(_MOST_LINES)))
        if stack and (module := _admits(stack, service)):
            found.append(f"{service} ({module})")
    return found


def _stack(texts: Mapping[str, str], service: str, depth: int, budget: Iterator[int]) -> list[tuple[str, str]]:
    """The control and module of each step of a service, with what it includes, until the budget of lines is spent."""
    text = next((texts[path] for path in (f"{place}/{service}" for place in DIRECTORIES) if path in texts), "")
    steps: list[tuple[str, str]] = []
    for line in split_lines(text.replace("\\\n", " ")) if depth < _DEEPEST else ():
        if next(budget, None) is None:
            break
        if include := re.match(r"@include\s+(\S+)|-?auth\s+(?:include|substack)\s+(\S+)", line.strip()):
            steps += _stack(texts, (include[1] or include[2]).rpartition("/")[2], depth + 1, budget)
        elif step := _LINE.match(line.strip()):
            steps.append((step[1], step[2].rpartition("/")[2].removesuffix(".so")))
    return steps


def _admits(stack: list[tuple[str, str]], service: str) -> str:
    """The module by which the stack succeeds, or nothing: the rules of libpam's _pam_dispatch_aux."""
    admitted, failed, skip = "", False, 0
    for control, module in stack:
        if skip:
            skip -= 1
            continue
        action = _action(control, _returned(module, service))
        if action.isdigit():
            skip = int(action)
        elif action in ("bad", "die"):
            failed = True
        elif action in ("ok", "done"):
            admitted = admitted or module
        if action == "die" or (action == "done" and not failed):
            break
    return "" if failed else admitted


def _returned(module: str, service: str) -> str:
    if module == "pam_permit" or (module == "pam_rootok" and service in _OF_ROOT):
        return _LETS_IN
    return "auth_err" if _FAILING.match(module) else _NEUTRAL


def _action(control: str, returned: str) -> str:
    """What a control does with the value that a module returned."""
    if control in _CONTROLS:
        return "ignore" if returned == _NEUTRAL else _CONTROLS[control][returned != _LETS_IN]
    pairs = dict(pair.split("=", 1) for pair in control.strip("[]").split() if "=" in pair)
    return pairs.get(returned, pairs.get("default", "ignore" if returned == _NEUTRAL else "bad"))
