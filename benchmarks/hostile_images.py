"""The time and memory until a command line tells what is wrong with a hostile image, before anything boots.

`python -m benchmarks.hostile_images`, half a minute on an idle host. The memory is that of the largest process of the
run, its confined reader among them (wait4(2), ru_maxrss).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from tests.support import disks

ROOT = Path(__file__).parent.parent
#: The promised limits: seconds, and bytes.
TIME, MEMORY = 5.0, 512 << 20
#: More than any disk of an instance has (bytes).
_GIANT = 15 << 40


def hostile(place: Path) -> Iterator[tuple[str, Path]]:
    """Makes the images one after another, and yields what is wrong with each, and its path."""
    long = "/".join(["x"] * 1900)
    multiplied = {"x": "-> .", "l0": f"-> {long}"}
    multiplied |= {f"l{number}": f"-> l{number - 1}/{long}" for number in range(1, 40)}
    yield "a release file with a line of 3 MiB", _disk(place / "line", {"etc/os-release": f"ID={'a' * (3 << 20)}\n"})
    yield "a release file behind links that multiply", _disk(
        place / "links", {**multiplied, "etc/os-release": "-> ../l39/nowhere"})  # fmt: skip
    yield "a release file of quotes", _disk(place / "quotes", {"etc/os-release": f"ID=x\nNAME={chr(34) * 65000}\n"})
    with (place / "giant.raw").open("wb") as file:
        file.truncate(_GIANT)
    yield "a raw disk of 15 TiB", place / "giant.raw"
    for name in ('json:{"driver":"raw","file":{"driver":"file","filename":"x"}}', "nbd:127.0.0.1:10809", "--help"):
        (place / name).write_bytes(b"\0" * 4096)
        yield f"an empty disk called {name[:20]}", place / name


def _disk(place: Path, files: dict[str, str | bytes]) -> Path:
    return disks.disk(place / "disk.raw", root=disks.fill(place / "root", files), options=("-b", "4096"))


def told(image: Path, reports: Path) -> tuple[int, float, int, str]:
    """Returns the exit status, the time (seconds), the memory (bytes) and the last words of a run on an image."""
    began = monotonic()
    with (reports / "said").open("w+b") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "suites", "-p", "no:cacheprovider", f"--image={image}",
             "--reports", str(reports / "reports")], cwd=ROOT, stdout=said, stderr=said)  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        words = said.read().decode("utf-8", "replace").strip().splitlines()
    return process.returncode, monotonic() - began, used.ru_maxrss << 10, words[0] if words else ""


def main() -> None:
    """Prints a line an image, and whether all keep the limits."""
    slowest, largest = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for what, image in hostile(Path(folder)):
            status, seconds, memory, words = told(image, Path(folder))
            print(f"{what}: exit {status} after {seconds:.1f} s, {memory >> 20} MiB: {words[:110]}", flush=True)
            slowest, largest = max(slowest, seconds), max(largest, memory)
    kept = "kept" if slowest <= TIME and largest <= MEMORY else "not kept"
    print(f"hostile images: told within {slowest:.1f} s and {largest >> 20} MiB, promised {TIME:.0f} s and "
          f"{MEMORY >> 20} MiB: {kept}")  # fmt: skip


if __name__ == "__main__":
    main()
