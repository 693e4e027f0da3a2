"""The time line of a recording as SVG: writes and flushes in order, and a dot for each judged state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from lifsea_testbed.powercut.crash_states import CrashKind, CrashState
from lifsea_testbed.powercut.recording import Timeline
from lifsea_testbed.powercut.verdicts import CrashResult, CrashVerdict
from lifsea_testbed.support.sinks import markup

_COLOURS = {CrashVerdict.OLD: "#2b6cb0", CrashVerdict.NEW: "#2f855a", CrashVerdict.BROKEN: "#c53030"}
_WIDTH, _LEFT, _RIGHT, _TOP, _BARS, _ROW = 1200.0, 130.0, 20.0, 40.0, 90.0, 22.0


def draw(timeline: Timeline, judged: Sequence[tuple[CrashState, CrashResult]]) -> str:
    """Returns the picture, from the first state that is tried on."""
    first = timeline.states.tried[0].first
    count = max(1, len(timeline.log.entries) - first)
    step = (_WIDTH - _LEFT - _RIGHT) / count
    height = _TOP + _BARS + _ROW * (len(CrashKind) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH:.0f}" height="{height:.0f}" fill="white"/>',
        *_legend(), *_entries(timeline, first, step), *_marks(timeline, first, step, height), *_rows(),
        *(_dot(found, first, step) for found in _together(judged)), "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _legend() -> Iterator[str]:
    for number, (outcome, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + 90 * number
        yield f'<circle cx="{x:.0f}" cy="14" r="4" fill="{colour}"/><text x="{x + 8:.0f}" y="18">{outcome}</text>'
    yield f'<text x="{_LEFT + 290:.0f}" y="18" fill="#718096">bars: writes by size; lines: flushes</text>'


def _entries(timeline: Timeline, first: int, step: float) -> Iterator[str]:
    bottom = _TOP + _BARS
    for place, entry in enumerate(timeline.log.entries[first:]):
        x = _LEFT + place * step
        if entry.is_flush:
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP:.0f}" y2="{bottom:.0f}" stroke="#a0aec0"/>'
        elif entry.is_write:
            size = min(_BARS, 8 * math.log2(entry.sectors + 1))
            yield (f'<rect x="{x:.1f}" y="{bottom - size:.1f}" width="{max(step, 0.5):.1f}" height="{size:.1f}" '
                   f'fill="#4a5568"><title>entry {first + place}: {entry.sectors} sectors at {entry.sector}</title>'
                   "</rect>")


def _marks(timeline: Timeline, first: int, step: float, height: float) -> Iterator[str]:
    for name, place in (("started", timeline.facts.started), ("announced", timeline.facts.announced)):
        x = _LEFT + (place - first) * step
        yield (f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8:.0f}" y2="{height:.0f}" stroke="#d69e2e" '
               f'stroke-dasharray="3"/><text x="{x:.1f}" y="{_TOP - 10:.0f}" fill="#975a16">{name}</text>')


def _rows() -> Iterator[str]:
    for number, kind in enumerate(CrashKind):
        yield f'<text x="4" y="{_height_of(number) + 4:.0f}">{markup(kind)}</text>'


def _together(judged: Sequence[tuple[CrashState, CrashResult]]) -> list[list[tuple[CrashState, CrashResult]]]:
    """Groups the states that share a dot: of one kind, at one position of the log, with one outcome."""
    found: dict[tuple[int, CrashKind, CrashVerdict], list[tuple[CrashState, CrashResult]]] = {}
    for state, result in judged:
        found.setdefault((state.position, state.kind, result.outcome), []).append((state, result))
    return sorted(found.values(), key=lambda some: some[0][1].outcome is CrashVerdict.BROKEN)


def _dot(found: Sequence[tuple[CrashState, CrashResult]], first: int, step: float) -> str:
    state, result = found[0]
    x, y = _LEFT + (state.position - first) * step, _height_of(list(CrashKind).index(state.kind))
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    why = f": {result.why}" if result.why else ""
    return (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_COLOURS[result.outcome]}" fill-opacity="0.8">'
            f"<title>{markup(f'{state.name}{more}: {result.outcome}{why}')}</title></circle>")


def _height_of(row: int) -> float:
    return _TOP + _BARS + _ROW * (row + 1)
