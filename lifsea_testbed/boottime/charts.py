"""Charts of boots as SVG: one boot with its phases, marks, units and load; the difference of two builds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from lifsea_testbed.boottime.attribution import Growth
from lifsea_testbed.boottime.marks import PHASES
from lifsea_testbed.boottime.observation import Observation, Progress
from lifsea_testbed.guest.boot import UnitTimes
from lifsea_testbed.support.sinks import markup

_COLOURS = dict(zip(PHASES.values(), ("#718096", "#805ad5", "#2b6cb0", "#2c7a7b", "#2f855a"), strict=True))
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _LOAD = 1200.0, 10.0, 20.0, 34.0, 16.0, 60.0
#: The rows for the names of marks, and the width of a letter.
_MARK_ROWS, _LETTER = 6, 6.6
#: Units that started faster than this (seconds) are left out.
_SHORT = 0.02
_NAMES = 380.0


def boot(seen: Observation) -> str:
    """Returns the chart of one boot: phases above, the load of the processors, then a bar for each unit."""
    units = [unit for unit in seen.units if unit.active - unit.started >= _SHORT]
    ends = [*seen.marks.values(), *(unit.active for unit in units)]
    scale = (_WIDTH - _LEFT - _RIGHT) / max(ends, default=1.0)
    below = _TOP + 2 * _ROW + _LOAD + 12 * _MARK_ROWS + 6
    height = below + _ROW * (len(units) + 2)
    return _svg(height, [
        f'<text x="{_LEFT}" y="18" font-size="14">{markup(seen.image)}, {seen.which} boot; marks of the guest\'s clock '
        f"± {seen.error * 1000:.1f} ms</text>",
        *_phases(seen, scale), *_load(seen.curve, scale), *_marks(seen, scale, height), *_units(units, scale, below),
    ])  # fmt: skip


def difference(growths: Sequence[Growth], title: str) -> str:
    """Returns the chart of the costs that differ: a bar each, to the right if it grew."""
    most = max((abs(growth.share) for growth in growths), default=1.0) or 1.0
    scale = (_WIDTH - _NAMES - _RIGHT - 230) / 2 / most
    middle = _NAMES + 115 + scale * most
    rows = [f'<text x="{_LEFT}" y="18" font-size="14">{markup(title)}</text>']
    for number, growth in enumerate(growths):
        rows += _bar(growth, middle, scale, _TOP + _ROW * 1.3 * (number + 1))
    height = _TOP + _ROW * 1.3 * (len(growths) + 2)
    rows.append(f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{_TOP}" y2="{height - _ROW:.1f}" stroke="#a0aec0"/>')
    return _svg(height, rows)


def _bar(growth: Growth, middle: float, scale: float, y: float) -> Iterator[str]:
    width = abs(growth.share) * scale
    grew = growth.by > 0
    x = middle if grew else middle - width
    end = (x + width + 4, "start") if grew else (x - 4, "end")
    yield f'<text x="{_LEFT}" y="{y:.1f}">{markup(_cut(f"{growth.kind} {growth.name}"))}</text>'
    yield (f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="{max(width, 1):.1f}" height="12" '
           f'fill="{"#c53030" if grew else "#2f855a"}"><title>{markup(str(growth))}</title></rect>')
    yield f'<text x="{end[0]:.1f}" y="{y:.1f}" text-anchor="{end[1]}">{growth.share:+.2%}</text>'


def _phases(seen: Observation, scale: float) -> Iterator[str]:
    counted = seen.instructions() if seen.is_counted else {}
    for phase in seen.phases:
        x, width = _LEFT + phase.start * scale, phase.duration * scale
        label = f"{phase.name}: {phase.duration:.3f} s"
        label += f", {counted[phase.name] / 1e6:.1f} M instructions" if phase.name in counted else ""
        yield (f'<rect x="{x:.1f}" y="{_TOP}" width="{max(width, 0):.1f}" height="{_ROW * 1.5}" '
               f'fill="{_COLOURS[phase.name]}"><title>{label}</title></rect>')
        if width > 7 * len(phase.name):
            yield f'<text x="{x + 4:.1f}" y="{_TOP + _ROW}" fill="white">{phase.name}</text>'


def _load(curve: Sequence[Progress], scale: float) -> Iterator[str]:
    """The instructions executed in each interval, as a share of those in the busiest one."""
    pairs = [(a, b) for a, b in itertools.pairwise(curve) if b.at > a.at]
    if not pairs:
        return
    rates = [(b.counts.work - a.counts.work) / (b.at - a.at) for a, b in pairs]
    base = _TOP + 2 * _ROW + _LOAD
    points = [f"{_LEFT + b.at * scale:.1f},{base - _LOAD * rate / max(rates):.1f}"
              for (_, b), rate in zip(pairs, rates, strict=True) if _LEFT + b.at * scale <= _WIDTH]  # fmt: skip
    yield (f'<polyline points="{_LEFT},{base} {" ".join(points)}" fill="none" stroke="#4a5568"/>'
           f'<text x="{_WIDTH - _RIGHT:.0f}" y="{base - _LOAD + 10:.0f}" text-anchor="end" fill="#4a5568">'
           f"at most {max(rates) / 1e6:.0f} M instructions/s</text>")


def _marks(seen: Observation, scale: float, height: float) -> Iterator[str]:
    """A line for each mark, its name on the first row that has room for it."""
    y, taken = _TOP + 2 * _ROW + _LOAD, [0.0] * _MARK_ROWS
    for mark, at in sorted(seen.marks.items(), key=lambda item: item[1]):
        x, name = _LEFT + at * scale, markup(f"{mark} {at:.2f}")
        width = _LETTER * len(name)
        left = min(x + 3, _WIDTH - width)
        row = next((row for row, end in enumerate(taken) if end < left), _MARK_ROWS - 1)
        taken[row] = left + width
        yield (f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _ROW:.1f}" stroke="#d69e2e" '
               f'stroke-dasharray="3"/><text x="{left:.1f}" y="{y + 12 * (1 + row):.1f}" fill="#975a16">{name}</text>')


def _units(units: Sequence[UnitTimes], scale: float, top: float) -> Iterator[str]:
    for number, unit in enumerate(units):
        x, y, width = _LEFT + unit.started * scale, top + _ROW * (number + 1), (unit.active - unit.started) * scale
        label = f"{unit.name} {unit.active - unit.started:.2f} s"
        inside = x + width + 8 * len(label) < _WIDTH
        yield (f'<rect x="{x:.1f}" y="{y - 11:.1f}" width="{max(width, 1):.1f}" height="13" fill="#90cdf4">'
               f"<title>{markup(label)}, {unit.processor:.2f} s of processor</title></rect>"
               f'<text x="{x + width + 4 if inside else x - 4:.1f}" y="{y:.1f}" '
               f'text-anchor="{"start" if inside else "end"}">{markup(label)}</text>')  # fmt: skip


def _cut(text: str, length: int = 58) -> str:
    return text if len(text) <= length else f"{text[: length // 2]}…{text[-length // 2 :]}"


def _svg(height: float, parts: Sequence[str]) -> str:
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{_WIDTH:.0f}" height="{height:.0f}" fill="white"/>', *parts, "</svg>",
    ]) + "\n"  # fmt: skip
