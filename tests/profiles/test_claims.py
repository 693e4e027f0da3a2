"""Claims, profiles and suites fit together."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.errors import NotJudged, ProfileRefused
from lifsea_testbed.plugin.items import claim
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.claims import catalogue
from tests.support import SUITES

LONGEST_JUDGE = 15
#: The claims that only one of LifseaOS and its stand-in makes, and why.
DIFFERENT = {
    "metadata-hardened": "LifseaOS has hardened mode from 3.6 on",
}  # fmt: skip
#: The promises in the articles on LifseaOS and in its documentation.
PROMISES = {
    "boot-two-seconds", "packages-about-200", "image-small", "no-initramfs", "drivers-built-in", "no-logind",
    "no-resolved", "few-units", "few-udev-rules", "root-read-only", "escaped-container-cannot-write",
    "etc-var-writable-and-kept", "no-sshd", "no-python", "no-interpreters", "shell-kept", "shell-absent",
    "no-package-manager", "disk-grown", "hostname-set", "ntp-set", "user-data-ran-once", "ops-container-off",
    "ops-container-on-demand", "operations-audited", "image-whole", "nodes-identical", "no-surprise-listeners",
    "setuid-known", "no-default-password", "sysctls", "containerd-ready", "kubelet-ready", "upgrade", "rollback",
    "console-clean", "time-synchronised",
}  # fmt: skip


def judges() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in SUITES.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name):
                        assert mark.func.id == "claim" and isinstance(mark.args[0], ast.Constant)
                        yield str(mark.args[0].value), node


def test_every_claim_has_a_judge_and_every_judge_a_claim() -> None:
    assert {name for name, _ in judges()} == set(catalogue())


def test_every_judge_fits_on_a_few_lines() -> None:
    """A judge of a claim has one idea, on 15 lines at the most."""
    long = [node.name for _, node in judges() if (node.end_lineno or node.lineno) - node.lineno + 1 > LONGEST_JUDGE]
    assert long == []


def test_every_promise_of_lifseaos_is_a_claim() -> None:
    assert PROMISES - set(catalogue()) == set()


def test_the_stand_ins_promise_what_they_stand_in_for() -> None:
    for line in ("3.3", "3.4", "3.5"):
        reference = profiles.load("reference" if line == "3.3" else f"reference-{line}")
        promised = set(profiles.load(f"lifsea-{line}").claims)
        assert set(reference.claims) ^ promised <= set(DIFFERENT)
        assert reference.security == profiles.load("reference").security


def test_every_judge_has_a_sentence() -> None:
    assert [node.name for _, node in judges() if not (ast.get_docstring(node) or "").endswith(".")] == []


def test_every_judge_asserts_something() -> None:
    silent = [node.name for _, node in judges() if not any(isinstance(part, ast.Assert) for part in ast.walk(node))]
    assert silent == []


def test_a_shell_is_promised_one_way() -> None:
    """No profile promises that the shell is kept and that it is gone."""
    promises = {name: set(profiles.load(name).claims) for name in profiles.names()}
    assert [name for name, claims in promises.items() if {"shell-kept", "shell-absent"} <= claims] == []
    assert set(catalogue()) == set[str]().union(*promises.values())


def test_a_missing_profile_key_is_not_judged_and_named() -> None:
    with pytest.raises(NotJudged, match=r"the profile has no image\.most: "):
        profiles.require(profiles.load("lifsea-3.3").image.most, "image.most")


def test_a_profile_may_name_access_methods_of_a_plugin() -> None:
    assert profiles.AccessSection(methods=["menu", "login"]).methods == ["menu", profiles.AccessMethod.LOGIN]


def test_every_built_in_profile_is_documented() -> None:
    text = (SUITES.parent / "docs/profiles.md").read_text("utf-8")
    assert [name for name in profiles.names() if f"`{name}`" not in text] == []


def test_every_table_and_key_is_documented() -> None:
    text = (SUITES.parent / "docs/profiles.md").read_text("utf-8")
    tables = {name: field.annotation for name, field in profiles.Profile.model_fields.items()}
    keys = [key for table in tables.values() for key in getattr(table, "model_fields", ())]
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_an_unknown_claim_cannot_be_named() -> None:
    with pytest.raises(KeyError):
        claim("flies")


@pytest.mark.parametrize("name", profiles.names())
def test_a_built_in_profile_is_valid(name: str) -> None:
    assert profiles.load(name).name == name


def test_a_profile_inherits_table_by_table() -> None:
    reference, lifsea = profiles.load("reference"), profiles.load("lifsea-3.3")
    assert set(lifsea.claims) - set(reference.claims) <= set(DIFFERENT)
    assert (reference.packages.most, reference.packages.databases) == (lifsea.packages.most,
                                                                       ["/usr/share/package-db/status"])  # fmt: skip


@pytest.mark.parametrize(("fields", "name"), [
    ({"ID": "lifsea", "VERSION_ID": "3.2"}, "lifsea-3.3"),
    ({"ID": "lifsea", "VERSION_ID": "3.4.0"}, "lifsea-3.4"),
    ({"ID": "lifsea", "VERSION_ID": "3.5.1"}, "lifsea-3.5"),
    ({"ID": "alinux", "VERSION_ID": "3"}, "alinux-3"),
    ({"ID": "bottlerocket", "VERSION_ID": "1.20.0"}, "bottlerocket"),
    ({"ID": "lifsea-reference", "VERSION_ID": "3.3.0"}, "reference"),
    ({"ID": "lifsea-reference", "VERSION_ID": "3.4.0"}, "reference-3.4"),
    ({"ID": "lifsea-reference", "VERSION_ID": "3.5.0"}, "reference-3.5"),
])  # fmt: skip
def test_an_image_finds_its_profile(fields: dict[str, str], name: str) -> None:
    found = profiles.matching(fields)
    assert found is not None and found.name == name


def test_an_unknown_os_has_no_profile() -> None:
    assert profiles.matching({"ID": "debian", "VERSION_ID": "12"}) is None


@pytest.mark.parametrize(("text", "complaint"), [
    ("name = ", "not TOML"),
    ('extends = "reference"\nname = "x"\n[packages]\nmost = "many"', "packages.most"),
    ('extends = "reference"\nname = "x"\ncolour = "red"', "colour"),
    ('extends = "reference"\nname = "x"\nclaims = ["flies"]', "unknown claims flies"),
    ('extends = "nothing"', "unknown profile"),
])  # fmt: skip
def test_an_invalid_profile_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ProfileRefused, match=complaint) as caught:
        profiles.load(str(path))
    assert caught.value.hint


def test_a_profile_that_extends_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "{path}"')
    with pytest.raises(ProfileRefused, match="extends itself"):
        profiles.load(str(path))


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ProfileRefused) as caught:
        profiles.load("lifsee")
    assert "reference" in caught.value.hint
