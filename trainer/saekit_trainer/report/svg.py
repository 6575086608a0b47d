"""Small charts as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH, HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 24
_RULERS: Final = 60
"""Places of a chart at which the pointer finds a value."""

Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """Points of a chart."""

    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False
    """Draw a dot at each point and thin lines between them: few, and measured on held-out text."""


def short(value: float) -> str:
    """A number in few characters: 0.0312, 1.5k, 3.2M, 2e-6."""
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-3:
        return f"{value:.2g}"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def line_chart(series: Sequence[Series], *, label: str, wide_range: bool = False) -> str:
    """Figures over tokens.

    Args:
        series: each with at least one point.
        label: what it shows, for those who do not see it.
        wide_range: take a logarithmic scale where the figures span more than a factor of thirty.
    """
    xs = [x for one in series for x in one.xs]
    ys = [y for one in series for y in one.ys]
    logarithmic = wide_range and min(ys) > 0 and max(ys) > 30 * min(ys)
    to_y = math.log10 if logarithmic else float
    ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys))
    low, high = to_y(min(ys)), to_y(max(ys))
    across = _scale(0.0, max(xs), _LEFT, WIDTH - _RIGHT)
    up = _scale(low, high, HEIGHT - _BOTTOM, _TOP)
    y_labels = [short(tick) for tick in ticks] if logarithmic else _labels(ticks)
    parts = [_y_axis([(up(to_y(t)), text) for t, text in zip(ticks, y_labels, strict=True)])]
    parts.append(_x_axis([(across(tick), short(tick)) for tick in _ticks(0.0, max(xs), 4)]))
    for one in series:
        points = [(across(x), up(to_y(y))) for x, y in zip(one.xs, one.ys, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="{"held" if one.dots else "line"}" points="{path}"/>')
        if one.dots or len(points) == 1:
            parts += [
                f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>'
                f"{escape(f'{short(at)} tokens: {value:.4g}')}</title></circle>"
                for (x, y), at, value in zip(points, one.xs, one.ys, strict=True)
            ]
        else:
            parts.append(_rulers(one, points))
    return _svg(parts, label)


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    label: str,
    what: str,
    tick: Format = short,
) -> str:
    """Bars over the bins between `edges`, which are one more than `counts`.

    Args:
        label: what it shows, for those who do not see it.
        what: is counted.
        tick: writes a place on the axis.
    """
    across = _scale(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    top = _ticks(0.0, float(max(*counts, 1)))
    up = _scale(0.0, max(top[-1], *counts), HEIGHT - _BOTTOM, _TOP)
    parts = [_y_axis([(up(t), short(t)) for t in top])]
    parts.append(_x_axis([(across(t), tick(t)) for t in _ticks(edges[0], edges[-1], 5)]))
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        x, width = across(left), across(right) - across(left)
        gap = min(1.0, width / 5)
        where = f"{tick(left)} to {tick(right)}"
        parts.append(
            f'<rect class="bar" x="{x + gap / 2:.1f}" y="{up(count):.1f}" '
            f'width="{width - gap:.1f}" height="{HEIGHT - _BOTTOM - up(count):.1f}">'
            f"<title>{escape(f'{where}: {count:,} {what}')}</title></rect>"
        )
    return _svg(parts, label)


def _svg(parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _rulers(series: Series, points: Sequence[tuple[float, float]]) -> str:
    step = max(1, -(-len(points) // _RULERS))
    chosen = range(0, len(points), step)
    width = (WIDTH - _LEFT - _RIGHT) / max(len(chosen), 1)
    parts = []
    for i in chosen:
        x, y = points[i]
        text = f"{short(series.xs[i])} tokens: {series.ys[i]:.4g}"
        parts.append(
            f'<g class="ruler"><rect x="{x - width / 2:.1f}" y="{_TOP}" width="{width:.1f}" '
            f'height="{HEIGHT - _TOP - _BOTTOM}"/><path d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/><title>{escape(text)}</title></g>'
        )
    return "".join(parts)


def _y_axis(ticks: Sequence[tuple[float, str]]) -> str:
    return "".join(
        f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>'
        for y, text in ticks
    )


def _x_axis(ticks: Sequence[tuple[float, str]]) -> str:
    return "".join(
        f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(text)}</text>'
        for x, text in ticks
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low
    if span <= 0:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float, n: int = 4) -> list[float]:
    """Round numbers within the range, or around a single value."""
    if high <= low:
        return [low]
    raw = (high - low) / n
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)] or [low]


def _labels(ticks: Sequence[float]) -> list[str]:
    """The ticks in as few digits as tell them apart."""
    texts = [short(tick) for tick in ticks]
    for decimals in range(1, 7):
        if len(set(texts)) == len(texts):
            break
        texts = [f"{tick:.{decimals}f}" for tick in ticks]
    return texts


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within the range; where those are few, their doubles and halves too."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**e for e in decades for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    coarse = [10.0**e for e in decades if low <= 10.0**e <= high]
    if len(fine) <= 6:
        return fine
    return coarse[:: -(-len(coarse) // 6)]
