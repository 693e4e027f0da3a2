"""Claims, profiles and suites fit together."""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from lifsea_testbed.errors import NotJudged, ProfileRefused
from lifsea_testbed.plugin.items import claim
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.claims import Need, catalogue
from lifsea_testbed.profiles.profile import missing_data, value_of
from tests.support import SUITES
from tests.support.house import PACKAGE

LONGEST_JUDGE = 15
#: The claims of LifseaOS that its stand-ins do not make, and why.
WITHOUT = {"selinux-enforcing": "the kernel of the stand-ins has no SELinux"}
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
    for line in ("3.3", "3.4", "3.5", "3.6"):
        reference = profiles.load("reference" if line == "3.3" else f"reference-{line}")
        assert set(profiles.load(f"lifsea-{line}").claims) - set(reference.claims) <= set(WITHOUT)
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


def needs_of(claim: str) -> set[str]:
    return {need.key for need in catalogue()[claim].needs}


def field_of(key: str) -> FieldInfo:
    section, _, name = key.partition(".")
    table: Any = profiles.Profile.model_fields[section].annotation
    found: FieldInfo = table.model_fields[name]
    return found


def may_be_empty(key: str) -> bool:
    """Whether the key may be left without a value: it may be None, or it is a text, a list or a table."""
    kind = field_of(key).annotation
    return kind not in (int, float, bool) and not isinstance(kind, enum.EnumMeta)


def keys_read(function: ast.FunctionDef) -> set[str]:
    """The keys of the profile that a test reads, as `profile.section.key`."""
    chains = [ast.unparse(node).split(".") for node in ast.walk(function) if isinstance(node, ast.Attribute)]
    return {".".join(chain[1:]) for chain in chains if len(chain) == 3 and chain[0] == "profile"
            and chain[1] in profiles.Profile.model_fields}  # fmt: skip


def test_a_claim_needs_every_key_that_its_tests_read() -> None:
    read = {(claim, key) for claim, node in judges() for key in keys_read(node) if may_be_empty(key)}
    assert len(read) > 20
    assert sorted((claim, key) for claim, key in read if key not in needs_of(claim)) == []


def test_a_claim_needs_every_key_without_which_nothing_is_judged() -> None:
    """What `require` demands, and what NotJudged names as missing in the profile, is needed by a claim."""
    sources = "".join(path.read_text("utf-8") for folder in (SUITES, PACKAGE) for path in folder.rglob("*.py"))
    demanded = set(re.findall(r"\brequire\([\w.]+, \"(\w+\.\w+)\"\)", sources))
    demanded |= set(re.findall(r"NotJudged\([^)]*?\((\w+\.\w+)\)\",\s+Reason\.PROFILE", sources))
    assert demanded >= {"budget.units", "boot.instructions", "cluster.pause", "cluster.join", "containers.escape"}
    assert demanded - {key for claim in catalogue() for key in needs_of(claim)} == set()


def test_every_key_that_is_empty_by_default_is_needed_or_optional() -> None:
    """A new key without a value must be needed by a claim, or be of use without one."""
    optional = {
        "access.password", "access.become",  # of the access method login alone
        "boot.ready_line",  # without it, an answer of Cloud Assistant is the sign
        "boot.allowed_kernel_errors", "boot.not_started", "packages.databases",  # none, none, and rpm's
        "cluster.prepare",  # the workload may be on board
        "upgrades.running", "upgrades.confirm",  # os-release; documentation
        "identity.variant_id", "identity.versions", "identity.system_release", "identity.has", "identity.lacks",
    }  # fmt: skip
    keys = {f"{section}.{key}" for section, table in profiles.Profile.model_fields.items()
            for key, field in getattr(table.annotation, "model_fields", {}).items()
            if field.default is None or field.default in ("", [], {})}  # fmt: skip
    assert keys == optional | {key for claim in catalogue() for key in needs_of(claim) if key in keys}


NEEDS = [(claim.id, need) for claim in catalogue().values() for need in claim.needs]


@pytest.mark.parametrize(("claim", "need"), NEEDS, ids=[f"{claim}-{need.key}" for claim, need in NEEDS])
def test_a_claim_without_its_data_is_found(claim: str, need: Need) -> None:
    fields = profiles.load("reference").model_dump() | {"claims": [claim]}
    if need.only_if:
        other, value = need.only_if
        assert value_of(profiles.load("reference"), other) != value  # else it would not depend on it
        fields[other.partition(".")[0]][other.partition(".")[2]] = value
        fields["upgrades"] |= {"deploy": "deploy", "roll_back": "back", "boots_next": "next"}
    assert missing_data(profiles.Profile.model_validate(fields)) == {}
    section, _, key = need.key.partition(".")
    default = field_of(need.key).default
    fields[section][key] = None if default is None else type(default)()
    assert missing_data(profiles.Profile.model_validate(fields)) == {claim: (need.key,)}


def test_a_list_that_allows_nothing_is_data() -> None:
    fields = profiles.load("reference").model_dump() | {"claims": ["setuid-known", "no-surprise-listeners"]}
    fields["security"] |= {"setuid": [], "listeners": []}
    assert missing_data(profiles.Profile.model_validate(fields)) == {}


@pytest.mark.parametrize(("base", "text", "complaint"), [
    ("lifsea-3.3", 'adds = ["few-units"]', "few-units needs budget.units"),
    ("lifsea-3.3", 'adds = ["pod-runs"]', "pod-runs needs cluster.join, cluster.pause, cluster.workload"),
    ("alinux-3", 'claims = ["sysctls", "setuid-known"]',
     "sysctls needs security.sysctls; setuid-known needs security.setuid"),
    ("reference", '[paths]\nimage = []',
     "root-read-only needs paths.image; escaped-container-cannot-write needs paths.image"),
    ("reference", '[upgrades]\ntool = "commands"\ndeploy = "x"', "rollback needs upgrades.roll_back"),
    ("alinux-3", 'claims = ["ops-container-off"]', "ops-container-off needs operations.status, operations.running"),
])  # fmt: skip
def test_a_profile_without_the_data_of_its_claims_is_refused_in_one_line(
    tmp_path: Path, base: str, text: str, complaint: str
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "{base}"\nname = "own"\n{text}\n')
    with pytest.raises(ProfileRefused) as caught:
        profiles.load(str(path))
    assert complaint in caught.value.happened
    assert "baseline" in caught.value.hint and "\n" not in caught.value.one_line


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
    assert (reference.packages.most, reference.packages.databases) == (lifsea.packages.most,
                                                                       ["/usr/share/package-db/status"])  # fmt: skip


@pytest.mark.parametrize(("text", "complaint"), [
    ("name = ", "not TOML"),
    ('[packages]\nmost = "many"', "packages.most"),
    ('[packages]\nmost = nan', "packages.most"),
    ('colour = "red"', "colour: Extra inputs are not permitted"),
    ('[packages]\nmots = 200', "packages.mots: Extra inputs are not permitted"),
    ('claims = ["flies"]', "unknown claims flies"),
    ('adds = ["flies"]', "unknown claims flies"),
    ('adds = "no-sshd"', "adds and drops are lists of claims"),
    ('drops = "no-sshd"', "adds and drops are lists of claims"),
    ('claims = "no-sshd"', "claims: "),
    ('[identity]\nversions = "3.4"', "identity.versions: '3.4' is not a range of versions"),
    ('[boot]\nready_line = "up("', r"boot.ready_line: 'up\(' is not a regular expression: missing \)"),
    ('[boot]\nallowed_kernel_errors = ["*"]', "boot.allowed_kernel_errors.0: .* is not a regular expression"),
    ('[absent]\npython = ["python["]', "absent.python.0: .* is not a regular expression"),
    ('[absent]\nssh = ["a{2,1}"]', "absent.ssh.0: .* is not a regular expression"),
    ('[security]\nlisteners = ["tcp .*", "udp ("]', "security.listeners.1: .* is not a regular expression"),
    ('[sharing]\nfiles = ["(?P<"]', "sharing.files.0: .* is not a regular expression"),
    ('[absent]\npython = ["(?i)python"]', "absent.python.0: .* is not a regular expression: global flags"),
    ('[sharing]\nprocesses = ["+"]', "sharing.processes.0: .* is not a regular expression"),
])  # fmt: skip
def test_an_invalid_profile_is_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "reference"\nname = "x"\n{text}')
    with pytest.raises(ProfileRefused, match=complaint) as caught:
        profiles.load(str(path))
    assert caught.value.hint and "\n" not in caught.value.one_line


@pytest.mark.parametrize(("content", "complaint"), [
    (b'extends = "nothing"', "unknown profile"), (b"extends = 3", "extends is the name of a profile"),
    (b'extends = "none.toml"', "none.toml: no such profile file"), (b"\xff = 1", "cannot be read"),
    (b"a = " + b"[" * 10000, "not TOML"),
])  # fmt: skip
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(ProfileRefused, match=complaint) as caught:
        profiles.load(str(path))
    assert caught.value.hint and "\n" not in caught.value.one_line


def test_every_regular_expression_of_a_profile_is_checked() -> None:
    """A key whose description speaks of regular expressions, and the names of executables, are of that type."""
    patterns = {"ready_line", "allowed_kernel_errors", "ssh", "python", "interpreters", "package_managers", "listeners",
                "debug_tools", "debug_packages", "shells",
                "files", "processes", "not_started"}  # fmt: skip
    described = {key for table in profiles.Profile.model_fields.values()
                 for key, field in getattr(table.annotation, "model_fields", {}).items()
                 if "regular expression" in (field.description or "")}  # fmt: skip
    checked = {key for table in profiles.Profile.model_fields.values()
               for key, field in getattr(table.annotation, "model_fields", {}).items()
               if "_compilable" in f"{field.annotation} {field.metadata}"}  # fmt: skip
    assert described <= patterns == checked


def test_a_profile_extends_a_file_beside_it_and_adds_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "base.toml").write_text('extends = "alinux-3"\nname = "base"\nclaims = ["shell-kept"]\n')
    own = tmp_path / "below/own.toml"
    own.write_text('extends = "../base.toml"\nname = "own"\nadds = ["no-sshd"]\n')
    monkeypatch.chdir("/")
    assert (profiles.load(str(own)).name, profiles.load(str(own)).claims) == ("own", ["shell-kept", "no-sshd"])


def test_a_profile_that_extends_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "{path}"')
    with pytest.raises(ProfileRefused, match="extends itself"):
        profiles.load(str(path))


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ProfileRefused) as caught:
        profiles.load("lifsee")
    assert "reference" in caught.value.hint


def test_the_hardware_s_model_is_no_promise_of_an_image() -> None:
    """Its tests have no claim: what they find is never counted for or against an image."""
    assert [name for name in catalogue() if name.startswith("instance-")] == []
    suite = (SUITES / "test_instance.py").read_text("utf-8")
    assert "pytest.mark.hardware_model" in suite and "claim(" not in suite


def test_a_profile_adds_claims_to_those_that_it_extends_and_drops_others(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "bottlerocket"\nname = "own"\n'
                    'adds = ["shell-kept"]\ndrops = ["shell-absent", "no-sshd"]\n')  # fmt: skip
    extended = [claim for claim in profiles.load("bottlerocket").claims if claim not in ("shell-absent", "no-sshd")]
    assert profiles.load(str(path)).claims == [*extended, "shell-kept"]
