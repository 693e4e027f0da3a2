"""The collector: gathers outcomes while a run goes on, keeps gate.json current, and settles the verdict at its end."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from lifsea_testbed import bench as benches
from lifsea_testbed import profile as profiles
from lifsea_testbed.claims import catalogue
from lifsea_testbed.preflight import Prepared
from lifsea_testbed.report import gate
from lifsea_testbed.report.gate import ClaimResult, Outcome, Verdict

SCHEMA = 1
_UNFINISHED = "the run did not come to its end"


class Collector:
    """Holds the outcomes of one run, of all its processes."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._outcomes: list[Outcome] = []
        self._started = time.time()
        self._profile = profiles.load(
            benches.FALLBACK if prepared.wish.profile == benches.AUTO else prepared.wish.profile
        )
        self._figures: list[str] = []
        self.path = prepared.wish.reports / "gate.json"
        self.path.unlink(missing_ok=True)

    def add(self, outcome: Outcome, *, profile: str) -> None:
        """Takes one outcome, judged under that profile, and writes down what is known so far."""
        if profile != self._profile.name:
            self._profile = profiles.load(profile)
        self._outcomes.append(outcome)
        self._write(Verdict.BROKEN, _UNFINISHED)

    def results(self) -> list[ClaimResult]:
        """The result of each claim of the profile, or of those of them that the user selected."""
        wanted = self._prepared.wish.claims or self._profile.claims
        promises = {claim: catalogue()[claim].promise for claim in self._profile.claims if claim in wanted}
        return gate.settle(promises, self._outcomes)

    def finish(self, troubles: Iterable[str] = (), failures: Iterable[str] = (),
               figures: Iterable[str] = ()) -> tuple[Verdict, str]:
        """Settles the verdict, writes it with what became of the figures, and returns it with its reason."""
        self._figures = list(figures)
        changed = [] if self._prepared.image.unchanged else [f"{self._prepared.image.path} changed during the run"]
        verdict, why = gate.conclude(self.results(), troubles=[*troubles, *changed], failures=failures,
                                     selected=self._prepared.wish.claims)  # fmt: skip
        self._write(verdict, why)
        return verdict, why

    @property
    def profile(self) -> str:
        """The name of the profile that the image is held to."""
        return self._profile.name

    def _write(self, verdict: Verdict, why: str) -> None:
        prepared = self._prepared
        document: dict[str, object] = {
            "schema": SCHEMA,
            "verdict": verdict,
            "why": why,
            "image": {
                "path": str(prepared.image.path),
                "sha256": prepared.image.sha256,
                "format": prepared.image.format,
                "virtual_size": prepared.image.virtual_size,
                "file_size": prepared.image.file_size,
            },
            "profile": self._profile.name,
            "selected": list(prepared.wish.claims),
            "instance_type": prepared.wish.instance_type,
            "host": host(prepared),
            "accelerator": {"kind": prepared.accelerator.kind, "why": prepared.accelerator.why},
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "duration": round(time.time() - self._started, 1),
            "figures": self._figures,
        }
        gate.write(self.path, document, self.results())


def host(prepared: Prepared) -> dict[str, object]:
    """Returns what is to be known of the host: processor, memory (MiB), kernel, and the versions that matter."""
    return {
        "processor": _processor(),
        "cores": benches.host_cores(),
        "memory": psutil.virtual_memory().total >> 20,
        "guest_memory": prepared.fitting.memory,
        "kernel": platform.release(),
        "qemu": prepared.emulator.version,
        "python": platform.python_version(),
    }


def _processor() -> str:
    names = (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
             if line.startswith("model name"))  # fmt: skip
    return next(names, platform.machine())
