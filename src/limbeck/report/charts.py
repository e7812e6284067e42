"""How do numbers become a picture in a page?

Four kinds: a curve over updates, points with names, means with intervals, and shares per bin. They
are a few lines of SVG that take their colours from the page's style sheet. A plotting library
writes its colours into the file, so that no picture follows light and dark, or brings megabytes of
script into every page; and a report must come with every install, not with an extra.

The same numbers give the same bytes. This module knows no run and no page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 400, 240  # units of a picture: about pixels on a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 10, 38  # margins around what is drawn
_LETTER, _LINE = 6.6, 14  # about the width and height of a letter
_TICKS = 5  # about so many on an axis
_MOST_POINTS = 150  # of a curve

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval, by name."""

    name: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Named:
    """A point with a name."""

    name: str
    x: float
    y: float


def averaged(points: Points) -> tuple[list[tuple[float, float]], int]:
    """A curve of `_MOST_POINTS` at most, and of how many points each of them is the mean.

    Example:
        >>> averaged([(1.0, 4.0), (2.0, 2.0)])
        ([(1.0, 4.0), (2.0, 2.0)], 1)
    """
    size = max(1, math.ceil(len(points) / _MOST_POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ], size


def curve(title: str, points: Points, *, x: str, y: str, marked: bool = False) -> Markup:
    """One line through points, in the order of x; `marked` shows each of them."""
    across = _Axis.around([at for at, _ in points], _LEFT, WIDTH - _RIGHT)
    up = _Axis.around([value for _, value in points], HEIGHT - _BOTTOM, _TOP)
    places = [(across.at(at), up.at(value)) for at, value in points]
    told = (
        f"{title}: {y} from {points[0][1]:.4g} to {points[-1][1]:.4g}, "
        f"{x} {points[0][0]:,.0f} to {points[-1][0]:,.0f}."
    )
    marks = [_circle(*place, "s1") for place in places] if marked else []
    return _figure(title, told, [*_frame(across, up, x, y), _path(places, "line s1"), *marks])


def scatter(title: str, points: Sequence[Named], *, x: str, y: str, less_is_better: bool) -> Markup:
    """Named points over a logarithmic axis; those that no other one beats are joined.

    `less_is_better` is about x; more is always better of y.
    """
    across = _Axis.around([point.x for point in points], _LEFT, WIDTH - _RIGHT, log=True)
    up = _Axis.around([point.y for point in points], HEIGHT - _BOTTOM, _TOP)
    places = [(across.at(point.x), up.at(point.y)) for point in points]
    best = unbeaten([(-p.x if less_is_better else p.x, p.y) for p in points])
    joined = sorted(places[number] for number in best)
    marks = []
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in places]
    for number, (point, place) in enumerate(zip(points, places, strict=True)):
        marks.append(_circle(*place, "s1" if number in best else "s3"))
        marks.append(_label(point.name, place, taken))
    told = f"{title}. " + "; ".join(f"{p.name}: {p.x:,.4g} {x}, {p.y:.3f} {y}" for p in points)
    lines = [_path(joined, "line s1 faint")] if len(joined) > 1 else []
    return _figure(title, told, [*_frame(across, up, x, y), *lines, *marks])


def unbeaten(points: Points) -> set[int]:
    """Points of the Pareto front: those that no other one beats, where more is better of both.

    Example:
        >>> sorted(unbeaten([(1.0, 3.0), (2.0, 2.0), (1.0, 2.0)]))
        [0, 1]
    """
    return {
        number
        for number, (x, y) in enumerate(points)
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)
    }


def intervals(title: str, rows: Sequence[Interval], *, x: str, zero: bool = False) -> Markup:
    """Means with their intervals, one below the other; `zero` draws a line there."""
    room = min(WIDTH * 0.45, 12 + _LETTER * max(len(row.name) for row in rows))
    step, top = 24, 8
    bottom = top + step * len(rows)
    ends = [value for row in rows for value in (row.low, row.high)] + ([0.0] if zero else [])
    across = _Axis.around(ends, room, WIDTH - _RIGHT)
    parts = [_grid(across, top, bottom), _below(x, (room + WIDTH - _RIGHT) / 2, bottom + 32)]
    if zero:
        parts.append(_path([(across.at(0), top), (across.at(0), bottom)], "axis"))
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5)
        parts += [
            _text(_fitting(row.name, room - 12), room - 8, y + 4, "end"),
            _path([(across.at(row.low), y), (across.at(row.high), y)], "line s1"),
            _circle(across.at(row.mean), y, "s1"),
        ]
    told = f"{title}. " + "; ".join(
        f"{row.name}: {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in rows
    )
    return _figure(title, told, parts, height=bottom + 38)


def histogram(
    title: str, edges: Sequence[float], groups: Mapping[str, Sequence[float]], *, x: str
) -> Markup:
    """Histogram of each group's values: its shares [bins], which sum to 1."""
    across = _Axis(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    highest = max(max(shares) for shares in groups.values())
    up = _Axis(0.0, highest, HEIGHT - _BOTTOM, _TOP)
    parts = _frame(across, up, x, "share")
    for number, shares in enumerate(groups.values(), start=1):
        places = [(across.at(edges[0]), up.at(0))]
        for left, right, share in zip(edges, edges[1:], shares, strict=False):
            places += [(across.at(left), up.at(share)), (across.at(right), up.at(share))]
        parts.append(_path([*places, (across.at(edges[-1]), up.at(0))], f"area s{number}"))
    told = f"{title}, from {edges[0]:.4g} to {edges[-1]:.4g}: {', '.join(groups)}."
    return _figure(title, told, parts, legend=list(groups))


@dataclass(frozen=True, slots=True)
class _Axis:
    """Axis: maps values to places between `start` and `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Sequence[float], start: float, stop: float, *, log: bool = False
    ) -> _Axis:
        """An axis with all values on it, and some room around them."""
        low, high = min(values), max(values)
        if log:
            return cls(low / 1.6, high * 1.6, start, stop, log)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - room, high + room, start, stop)

    def at(self, value: float) -> float:
        """The place of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values on the axis, with their labels."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1,), (1, 3), (1, 2, 5)):
                found = [digit * 10.0**power for power in powers for digit in digits]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) > 2:
                    break
            return [(value, f"{value:,g}") for value in found]
        rough = ((self.high - self.low) or 1.0) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(n * step, f"{n * step:,.{decimals}f}") for n in range(first, last + 1)]


def _figure(
    title: str,
    told: str,
    parts: Sequence[Markup],
    *,
    height: float = HEIGHT,
    legend: Sequence[str] = (),
) -> Markup:
    """A picture with its title, its description in words, and the legend of its colours."""
    swatch = Markup(
        '<li><svg class="swatch" viewBox="0 0 10 10" aria-hidden="true">'
        '<rect class="area s{}" width="10" height="10"/></svg> {}</li>'
    )
    names = Markup("").join(swatch.format(n, name) for n, name in enumerate(legend, start=1))
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption>'
        '<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>{}</figure>'
    ).format(
        title,
        WIDTH,
        height,
        told,
        Markup("").join(parts),
        Markup('<ul class="legend">{}</ul>').format(names) if legend else "",
    )


def _frame(across: _Axis, up: _Axis, x: str, y: str) -> list[Markup]:
    """Axes with ticks and names; y's name stands above its axis's labels."""
    bottom = HEIGHT - _BOTTOM
    parts = [_grid(across, _TOP, bottom), _below(x, (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 4)]
    for value, label in up.ticks():
        place = up.at(value)
        parts.append(_path([(_LEFT, place), (WIDTH - _RIGHT, place)], "grid"))
        parts.append(_text(label, _LEFT - 6, place + 4, "end"))
    turned = Markup('<text x="{0}" y="{1}" text-anchor="middle" transform="rotate(-90 {0} {1})">')
    parts.append(turned.format(11, (_TOP + bottom) // 2) + y + Markup("</text>"))
    return parts


def _grid(across: _Axis, top: float, bottom: float) -> Markup:
    """The lines that stand on an axis, with labels below; labels that would touch are left out."""
    parts, free = [], -math.inf
    for value, label in across.ticks():
        place, half = across.at(value), len(label) * _LETTER / 2
        parts.append(_path([(place, top), (place, bottom)], "grid"))
        if place - half > free:
            parts.append(_text(label, place, bottom + 15, "middle"))
            free = place + half + 4
    return Markup("").join(parts)


def _below(name: str, x: float, y: float) -> Markup:
    return _text(name, x, y, "middle")


def _label(
    name: str, place: tuple[float, float], taken: list[tuple[float, float, float, float]]
) -> Markup:
    """A point's name beside it, where it covers nothing else as far as that is possible."""
    x, y = place
    width = len(name) * _LETTER
    tries: list[tuple[int, int, tuple[float, float, float, float], str]] = []
    for down in (0, -_LINE, _LINE, -2 * _LINE, 2 * _LINE, -3 * _LINE, 3 * _LINE):
        for left, anchor in ((x + 8, "start"), (x - 8 - width, "end")):
            box = (left, y + down - _LINE / 2, left + width, y + down + _LINE / 2)
            outside = (
                box[0] < _LEFT or box[2] > WIDTH - 4 or box[1] < 0 or box[3] > HEIGHT - _BOTTOM
            )
            covered = sum(
                box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
                for other in taken
            )
            tries.append((covered + 100 * outside, len(tries), box, anchor))
    _, _, box, anchor = min(tries)
    taken.append(box)
    end, middle = box[0] if anchor == "start" else box[2], box[1] + _LINE / 2
    led = _path([place, (end, middle)], "grid") if middle != y else Markup("")
    return led + _text(name, end, middle + 4, anchor)


def _fitting(name: str, room: float) -> str:
    """A name, or the end of it where it is too long for its room."""
    letters = int(room / _LETTER)
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def _path(places: Points, kind: str) -> Markup:
    points = "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Markup('<path class="{}" d="M{}"/>').format(kind, points)


def _circle(x: float, y: float, kind: str) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(kind, x, y)


def _text(words: str, x: float, y: float, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, words
    )
