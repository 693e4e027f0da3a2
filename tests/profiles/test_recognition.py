"""The OS of an image decides its profile; without one that is made for it, there is none."""

from __future__ import annotations

import pytest

from lifsea_testbed.errors import ProfileRefused
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.recognition import ReleaseFacts, choose, is_of, marker_files

SH, RPM_OSTREE = "/bin/sh", "/usr/bin/rpm-ostree"
LIFSEA = "Alibaba Cloud Linux Lifsea (ContainerOS) release "


def facts(os: str = "", version: str = "", *files: str, variant: str = "", system_release: str = "") -> ReleaseFacts:
    fields = {"ID": os, "VERSION_ID": version, "VARIANT_ID": variant}
    return ReleaseFacts(os_release={name: value for name, value in fields.items() if value},
                        system_release=system_release, files=frozenset(files))  # fmt: skip


@pytest.mark.parametrize(("found", "name"), [
    (facts("lifsea", "3.2"), "lifsea-3.3"), (facts("lifsea", "3.3.2"), "lifsea-3.3"),
    (facts("lifsea", "3.4.0"), "lifsea-3.4"), (facts("lifsea", "3.4.6-1.al8"), "lifsea-3.4"),
    (facts("lifsea", "3.5.1"), "lifsea-3.5"), (facts("lifsea", "3.6.0"), "lifsea-3.6"),
    *((facts("lifsea", version), "lifsea-3.7") for version in ("3.7", "3.7.2", "3.10", "3.40")),
    (facts("lifsea", "3", SH), "lifsea-3.3"), (facts("lifsea", "3", SH, RPM_OSTREE), "lifsea-3.4"),
    (facts("lifsea", "3"), "lifsea-3.5"), (facts("lifsea"), "lifsea-3.5"),
    (facts("lifsea", "3", SH, system_release=f"{LIFSEA}3.6\n"), "lifsea-3.6"),
    (facts("", "", SH, system_release=f"{LIFSEA}3\n"), "lifsea-3.3"),
    (facts("alinux", "3", SH, RPM_OSTREE, system_release=f"{LIFSEA}3\n"), "lifsea-3.4"),
    (facts("alinux", "3", SH, system_release="Alibaba Cloud Linux release 3 (Soaring Falcon)\n"), "alinux-3"),
    (facts("alinux", "3.2104"), "alinux-3"),
    (facts("centos", "7", system_release="CentOS Linux release 7.9.2009"), "centos"),
    (facts("fedora", "40", variant="coreos"), "fedora-coreos"), (facts("flatcar", "3815.2.0"), "flatcar"),
    (facts("bottlerocket", "1.20.0", variant="aws-k8s-1.30"), "bottlerocket"),
    (facts("rancheros", "v1.5.8"), "rancheros"),
    (facts("lifsea-reference", "3.3.0"), "reference"), (facts("lifsea-reference", "3.4.0"), "reference-3.4"),
    (facts("lifsea-reference", "3.5.0"), "reference-3.5"), (facts("lifsea-reference", "3.6.0"), "reference-3.6"),
], ids=str)  # fmt: skip
def test_an_image_gets_the_profile_of_its_os_and_version(found: ReleaseFacts, name: str) -> None:
    assert choose(found).name == name


@pytest.mark.parametrize("found", [
    facts("fedora", "40", variant="workstation"), facts("fedora", "40", variant="silverblue"), facts("fedora", "40"),
    facts("debian", "12"), facts("lifsea", "30"), facts("lifsea", "4"), facts("lifsea", "10"), facts("alinux", "30"),
    facts("alinux", "2"), facts("rancheros", "2.0"), facts("lifsea-something", "3.3"), facts(version="3.3"),
], ids=str)  # fmt: skip
def test_an_os_without_a_profile_gets_none(found: ReleaseFacts) -> None:
    with pytest.raises(ProfileRefused, match="fits no profile") as caught:
        choose(found)
    assert all(name in caught.value.hint for name in profiles.names())
    assert "--profile" in caught.value.hint and "\n" not in caught.value.one_line


def test_without_a_version_that_decides_an_image_without_a_shell_is_held_to_what_all_its_lines_promise() -> None:
    earliest, *later = (set(profiles.load(name).claims) for name in ("lifsea-3.5", "lifsea-3.6", "lifsea-3.7"))
    assert all(earliest <= claims for claims in later)
    assert choose(facts("lifsea", "3")).name == "lifsea-3.5"


def test_a_version_that_two_profiles_may_hold_is_refused_with_both() -> None:
    with pytest.raises(ProfileRefused, match=r"more than one profile: reference, reference-3\.4, .*-3\.6"):
        choose(facts("lifsea-reference", "3"))


@pytest.mark.parametrize(("found", "why"), [
    (ReleaseFacts(os_release={"ID": "lifsea", "VERSION_ID": "3.6.0"}, place="partition 4"),
     "chosen by ID=lifsea, VERSION_ID=3.6.0 on partition 4, versions >=3.6, <3.7"),
    (ReleaseFacts(os_release={"ID": "lifsea", "VERSION_ID": "3"}, files=frozenset([SH])),
     "chosen by ID=lifsea, VERSION_ID=3, versions <3.4, by its files (has /bin/sh, lacks /usr/bin/rpm-ostree)"),
    (ReleaseFacts(os_release={"ID": "flatcar"}), "chosen by ID=flatcar"),
])  # fmt: skip
def test_the_choice_says_why(found: ReleaseFacts, why: str) -> None:
    assert choose(found).why == why


def test_what_a_release_file_holds_is_shown_on_one_clean_line() -> None:
    shown = str(ReleaseFacts(os_release={"ID": "x\x1b[2J" * 100}, system_release="one\ntwo\n"))
    assert "\x1b" not in shown and "\n" not in shown and len(shown) < 200


def test_no_two_profiles_are_made_for_one_version() -> None:
    """For every bound of every range, and the versions beside it, one built-in profile at most is sure."""
    built_in = [profiles.load(name) for name in profiles.names()]
    bounds = {bound for one in built_in for bound in (one.identity.range.start, one.identity.range.end) if bound}
    near = {".".join(map(str, (*bound[:-1], bound[-1] + step))) for bound in bounds for step in (-1, 0, 1)}
    for one in built_in:
        for version in near:
            found = facts(one.identity.os_id, f"{version}.0", variant=one.identity.variant_id)
            sure = [other.name for other in built_in
                    if is_of(other.identity, found) and other.identity.range.holds(found.version)]  # fmt: skip
            assert len(sure) <= 1, (version, sure)


def test_the_marks_are_paths_of_the_image() -> None:
    assert marker_files() == {SH, RPM_OSTREE}
