"""The evidence of a failure: complete, bounded in size, and without secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lifsea_testbed.errors import GuestCrashed
from lifsea_testbed.report.evidence import Bundle
from tests.support import quick, real
from tests.support.boot_sector import raw_image

SECRET = "c2VjcmV0LXZhbHVl"
DYING = f"x-aliyun-ecs-metadata-token: {SECRET}\nKernel panic - not syncing: no root\n"
SUITE = """
from lifsea_testbed import claim

@claim("boots-to-ready")
def test_boots(machine):
    machine.wait_until_ready()
"""
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def place(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_suite=SUITE)
    profile = 'extends = "reference"\nname = "quick"\nclaims = ["boots-to-ready"]\n[boot]\nshell_within = 0.5\n'
    (pytester.path / "quick.toml").write_text(profile)
    return pytester


def judge(place: pytest.Pytester, text: str, *options: str) -> Path:
    """Runs the suite on a disk that prints the text and halts, and returns the folder of its failure."""
    image = raw_image(place.path / "disk.raw", text)
    place.runpytest_subprocess("--image", str(image), "--profile", "quick.toml", "-p", "no:cacheprovider", *options)
    (claim,) = json.loads((place.path / "reports/gate.json").read_text())["claims"]
    (folder,) = claim["evidence"]
    return place.path / "reports" / str(folder)


@pytest.mark.boots
def test_a_dead_guest_leaves_everything(place: pytest.Pytester) -> None:
    folder = judge(place, DYING)
    assert {path.name for path in folder.iterdir()} == {
        "about.txt", "explanation.txt", "machine-metadata-requests.txt", "machine-missing.txt",
        "machine-qemu-argv.txt", "machine-qmp-1.txt", "machine-screen-1.png", "machine-transcript-1.txt",
    }  # fmt: skip
    assert (folder / "machine-screen-1.png").read_bytes().startswith(PNG)
    assert re.search(r'^\[ +\d+\.\d{3}\] > {"execute": "cont"}$', (folder / "machine-qmp-1.txt").read_text(), re.M)
    assert re.search(r"^\[ +\d+\.\d{3}\] Kernel panic", (folder / "machine-transcript-1.txt").read_text(), re.M)
    assert (folder / "machine-missing.txt").read_text().startswith("journal-1.txt: ")
    assert '< {"timestamp": ' in (folder / "machine-qmp-1.txt").read_text()
    assert (folder / "explanation.txt").read_text().startswith("GuestCrashed: kernel panic: ")
    about = (folder / "about.txt").read_text()
    assert "\nreproduce: pytest test_suite.py::test_boots --image " in about and "machine-screen-1.png" in about


@pytest.mark.boots
def test_no_secret_is_in_any_report(place: pytest.Pytester) -> None:
    judge(place, DYING)
    files = [path for path in (place.path / "reports").rglob("*") if path.is_file()]
    assert files and [path.name for path in files if SECRET.encode() in path.read_bytes()] == []
    assert any(b"x-aliyun-ecs-metadata-token: [masked]" in path.read_bytes() for path in files)


@pytest.mark.boots
def test_a_guest_that_hangs_leaves_its_screen_as_well(place: pytest.Pytester) -> None:
    folder = judge(place, "stuck here\n")
    assert (folder / "machine-screen-1.png").read_bytes().startswith(PNG)


@pytest.mark.nightly
@pytest.mark.boots
def test_memory_is_kept_on_request(place: pytest.Pytester) -> None:
    judge(place, DYING, "--dump-memory")
    (dump,) = (place.path / "reports/machines").glob("*/memory-1.kdump")
    # makedumpfile's format (IMPLEMENTATION, "The flattened format" and "disk_dump_header").
    assert dump.read_bytes()[:8] in (b"KDUMP   ", b"makedump")


def test_a_bundle_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    for number in range(20):
        (tmp_path / f"records/{number}.txt").write_text(f"begin\n{'x' * (2 << 20)}\nend\n")
    (tmp_path / "records/screen-1.png").write_bytes(bytes(2 << 20))
    bundle = Bundle(tmp_path / "bundle")
    bundle.records(tmp_path / "records", prefix="")
    sizes = [path.stat().st_size for path in bundle.folder.iterdir()]
    assert sum(sizes) <= 12 << 20 and max(sizes) <= 1 << 20 and not (bundle.folder / "screen-1.png").exists()
    text = (bundle.folder / "0.txt").read_text()
    assert text.startswith("begin\n") and text.endswith("end\n") and "bytes are left out here" in text


def test_the_pages_to_begin_with_are_there_whatever_machines_leave(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    for number in range(14):
        (tmp_path / f"records/{number:02}.txt").write_text("x" * (1 << 20))
    (tmp_path / "records/memory-1.kdump").write_bytes(bytes(1 << 20))
    bundle = Bundle(tmp_path / "bundle")
    bundle.write("explanation.txt", "CommandFailed: it failed")
    bundle.about({"why": "it failed"})
    assert "left out" not in (bundle.folder / "about.txt").read_text()
    bundle.records(tmp_path / "records", prefix="machine-")
    bundle.about({"why": "it failed"})
    about = (bundle.folder / "about.txt").read_text()
    assert (bundle.folder / "explanation.txt").read_text() == "CommandFailed: it failed"
    assert about.startswith("why: it failed\nfiles:\n  explanation.txt\n  machine-00.txt\n")
    left = [line.split("/")[-1] for line in about.partition("left out, the evidence")[2].splitlines()[1:]]
    assert left == [f"{number}.txt (1024 KiB)" for number in (10, 11, 12, 13)] + ["memory-1.kdump (1024 KiB)"]
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) <= 12 << 20


FAILING = """
import pytest
from lifsea_testbed import claim

@claim("boots-to-ready")
@pytest.mark.parametrize("bound", [">=1", "<=1"])
def test_bound(machine, bound):
    assert not bound, f"the bound is {bound}"
"""


@pytest.mark.boots
def test_tests_whose_names_look_alike_have_evidence_of_their_own(pytester: pytest.Pytester) -> None:
    pytester.runpytest_subprocess(*quick.lay_out(pytester.path, FAILING))
    claims = json.loads((pytester.path / "reports/gate.json").read_text())["claims"]
    folders = [pytester.path / "reports" / folder for claim in claims for folder in claim["evidence"]]
    texts = [(folder / "explanation.txt").read_text() for folder in folders]
    assert sorted(text.count("the bound is >=1") for text in texts) == [0, 1]
    assert sorted(text.count("the bound is <=1") for text in texts) == [0, 1]


def test_a_bundle_follows_no_link_out_of_its_records(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "records/link.txt").symlink_to(tmp_path / "secret.txt")
    bundle = Bundle(tmp_path / "bundle")
    bundle.records(tmp_path / "records", prefix="")
    assert list(bundle.folder.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.boots
def test_the_journal_of_a_dead_guest_is_read_off_its_disk(tmp_path: Path) -> None:
    """The reference image keeps its journal in memory; here it is configured to keep it on the disk."""
    with real.machine(tmp_path) as machine:
        machine.run("mkdir -p /etc/systemd/journald.conf.d /var/log/journal && "
                    "printf '[Journal]\\nStorage=persistent\\n' >/etc/systemd/journald.conf.d/zz.conf && "
                    "systemctl restart systemd-journald && journalctl --flush")  # fmt: skip
        machine.run("logger -t house the word of the house && journalctl --sync && sync")
        with pytest.raises(GuestCrashed):
            machine.run("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
        machine.collect_postmortem()
        missing = machine.records / "missing.txt"
        assert not missing.exists(), missing.read_text()
        assert "the word of the house" in (machine.records / "journal-1.txt").read_text()
