"""The accuracy of the judgement of boot time, on real boots: `python -m benchmarks.perf`.

Boots the reference image in turns with images that are slower by a known amount, while a compiler runs, and appends the
observations to reports/perf-boots.jsonl (`--rounds 0` judges those that are there). A round is seven boots, about three
minutes under emulation.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from images import mutations
from images.cli import deliver
from images.store import Store
from lifsea_testbed.boottime import attribution, budget, kernel_only, observation, observe
from lifsea_testbed.boottime.attribution import GrowthKind
from lifsea_testbed.boottime.observation import Observation
from lifsea_testbed.disk.image import examine
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.machine.preflight import run_context
from lifsea_testbed.perf.compare import FLOOR, Change, compare
from lifsea_testbed.perf.metric import Metric
from lifsea_testbed.qemu import emulator, instruction_counter
from tests.support import ROOT, real

KEPT = Path("reports/perf-boots.jsonl")
SIDE, TRIALS = 5, 200
PERCENTS = (2, 5, 10)
#: Turns of the loop of dash (10,600 instructions each) that are one percent of the reference image's first boot.
_PERCENT = 3_400
_BURN = """unit burns oneshot <<'END'
turn=0
while [ $turn -lt {turns} ]; do turn=$((turn + 1)); done
END
sed -i 's/^Description=.*/&\\nBefore=lifsea-init.service/' $UNITS/burns.service
"""
_LOOPS = "sed -i 's/^options .*/& max_loop=64/' boot/loader*/entries/*.conf"
Values = Callable[[Sequence[Observation]], list[float]]


def slow_image(percent: int) -> Path:
    """The reference image with a unit that burns so many percent of a boot before user-data runs."""
    script = _BURN.format(turns=percent * _PERCENT)
    return _made(mutations.Mutant(name=f"slower-{percent}", claim="", change="A unit burns.", why="", tree=script))


def slow_kernel() -> Path:
    """The reference image whose boot entry has one initcall, loop_init, create 64 loop devices."""
    return _made(mutations.Mutant(name="slower-initcall", claim="", change="", why="", sysroot=_LOOPS))


def _made(mutant: mutations.Mutant) -> Path:
    image = ROOT / f"build/{mutant.name}.qcow2"
    deliver(mutations.make(Store(), "trixie", mutant) / "image.qcow2", image)
    return image


@contextlib.contextmanager
def compiler() -> Iterator[None]:
    """Runs a C compiler all the time."""
    source, over = Path(instruction_counter.__file__).with_name("counter.c"), threading.Event()

    def compile_on() -> None:
        while not over.is_set():
            subprocess.run(["gcc", "-O2", "-S", "-o", "/dev/null", source], check=True)

    thread = threading.Thread(target=compile_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def collect(rounds: int, percents: Sequence[int]) -> None:
    """Adds rounds to the file: each slow image once, and the reference image before, between and after them."""
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(real.bench(KEPT.parent))
        slow = [stack.enter_context(_bench(slow_image(percent))) for percent in percents]
        counting = stack.enter_context(observe.counting(good))
        stack.enter_context(compiler())
        order = [good, *(bench for one in slow for bench in (one, good))]
        for number, bench in itertools.product(range(rounds), order):
            seen = observe.boots(bench, f"round-{number}", counting)
            with KEPT.open("a", encoding="utf-8") as file:
                file.writelines(observation.line(one) for one in seen)
            for one in seen:
                print(f"{one.image}: {budget.times([one])[0]:.2f} s, {budget.instructions([one])[0] / 1e6:.1f} M "
                      "instructions", flush=True)  # fmt: skip


@contextlib.contextmanager
def _bench(image: Path) -> Iterator[MachineFactory]:
    made = MachineFactory(run_context(image=str(image), profile="reference", instance_type="ecs.g7.large",
                                      accelerator="auto", reports=KEPT.parent))  # fmt: skip
    try:
        yield made
    finally:
        made.close()


def spread(seen: Sequence[Observation], values: Values) -> float:
    """The standard deviation as a share of the mean."""
    return statistics.stdev(values(seen)) / statistics.mean(values(seen))


def alarms(seen: Sequence[Observation], metric: Metric, values: Values) -> int:
    """In how many of 200 comparisons of two disjoint sets of five boots of one image a change is reported."""
    random, pool, found = np.random.default_rng(7), np.asarray(values(seen)), 0
    for _ in range(TRIALS):
        drawn = random.permutation(pool)[: 2 * SIDE]
        change = compare(metric, list(drawn[:SIDE]), list(drawn[SIDE:])).change
        found += change in (Change.REGRESSED, Change.IMPROVED)
    return found


def fewest(good: Sequence[Observation], slow: Sequence[Observation]) -> int | None:
    """The fewest boots a side with which the slow image is found to be slower, however they are drawn, in 99 of 100."""
    random = np.random.default_rng(8)
    old, new = (np.asarray(budget.instructions(side)) for side in (good, slow))
    for count in range(4, min(len(old), len(new)) + 1):
        found = sum(compare(budget.INSTRUCTIONS, list(random.permutation(old)[:count]),
                            list(random.permutation(new)[:count])).change is Change.REGRESSED
                    for _ in range(TRIALS))  # fmt: skip
        if found >= 0.99 * TRIALS:
            return count
    return None


def culprits(good: Sequence[Observation], slow: Sequence[Observation]) -> str:
    """The programs and units that five boots a side name as grown most."""
    found = attribution.culprits(attribution.suspects(good[:SIDE], slow[:SIDE]))
    kinds = (GrowthKind.PROGRAM, GrowthKind.UNIT)
    return "; ".join(str(growth) for growth in found if growth.kind in kinds) or "nothing"


def accusations(seen: Sequence[Observation]) -> int:
    """In how many of 200 comparisons of one image with itself a program is named for a percent of the boot or more."""
    random, found = np.random.default_rng(7), 0
    for _ in range(TRIALS):
        drawn = [seen[place] for place in random.permutation(len(seen))[: 2 * SIDE]]
        named = attribution.suspects(drawn[:SIDE], drawn[SIDE:])
        found += any(growth.kind is GrowthKind.PROGRAM and abs(growth.share) >= FLOOR for growth in named)
    return found


def initcall() -> str:
    """The initcall that boots of the kernel alone name as grown most, if one initcall is slower."""
    qemu = emulator.find()
    old, new = (kernel_only.run(examine(image), qemu) for image in (real.built("reference"), slow_kernel()))
    change = kernel_only.differences(old, new)[0]
    return f"{change}; {old.until_root / 1e3:.3f} → {new.until_root / 1e3:.3f} M instructions"


def judge() -> str:
    """Prints the statistics of the stored boots, and returns the last line."""
    seen = observation.load(KEPT)
    good = [one for one in seen if one.image == "reference.qcow2"]
    instructions, wall = spread(good, budget.instructions), spread(good, budget.times)
    print(f"{len(good)} boots of the reference image: {instructions:.2%} of instructions, {wall:.1%} of wall clock")
    for phase in good[0].instructions():
        counts = [one.instructions()[phase] for one in good]
        print(f"  {phase}: {statistics.median(counts) / 1e6:.1f} M, spread "
              f"{statistics.stdev(counts) / statistics.mean(counts):.2%}")
    found: dict[int, int | None] = {}
    for percent in PERCENTS:
        slow = [one for one in seen if one.image == f"slower-{percent}.qcow2"]
        if len(slow) < SIDE:
            print(f"slower by {percent} %: {len(slow)} boots are too few to judge")
            continue
        grew = statistics.median(budget.instructions(slow)) / statistics.median(budget.instructions(good)) - 1
        found[percent] = fewest(good, slow)
        print(f"slower by {percent} % (measured {grew:+.2%}, {len(slow)} boots): found with {found[percent]} a side; "
              f"named: {culprits(good, slow)}")
        clock = compare(budget.BOOT, budget.times(good[:SIDE]), budget.times(slow[:SIDE]))
        print(f"  by wall clock, {SIDE} a side: {clock}")
    print(f"slower initcall: {initcall()}")
    false = {metric.name: alarms(good, metric, values) for metric, values in
             ((budget.INSTRUCTIONS, budget.instructions), (budget.BOOT, budget.times))}  # fmt: skip
    print(f"false alarms of {TRIALS} comparisons of {SIDE} with {SIDE} boots, drawn from {len(good)}: {false}; "
          f"programs accused of a percent or more: {accusations(good)}")  # fmt: skip
    return (f"perf: spread {instructions:.2%} instr vs {wall:.1%} wall; detects 2 % in {found.get(2)} boots; "
            f"false alarms {false[budget.INSTRUCTIONS.name]}/{TRIALS}")  # fmt: skip


def main() -> None:
    """Boots and judges; the last line is the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="rounds to add (default: %(default)s)")
    parser.add_argument("--percent", type=int, nargs="+", default=PERCENTS, choices=PERCENTS,
                        help="the slow images of a round (default: all)")
    options = parser.parse_args()
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    if options.rounds:
        collect(options.rounds, options.percent)
    print(judge())


if __name__ == "__main__":
    main()
