"""Pictures of a report: charts as SVG whose colours and letters follow the page, samples as data URIs.

matplotlib draws through its object interface, so nothing global is touched that a notebook might hold. Colours are
drawn as stand-ins and then replaced by CSS variables: one picture serves light, dark and print. Names from the data
(classes may be called "$x$", "<b>" or 猫) never reach matplotlib: stand-ins are drawn and replaced by escaped text.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strata.report.words import percent, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _FAINT, _RULE, _ACCENT, _PAPER = (f"#0101{number:02x}" for number in range(1, 7))
_CSS = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _FAINT: "var(--faint)",
    _RULE: "var(--rule)",
    _ACCENT: "var(--accent)",
    _PAPER: "var(--paper)",
}
_STYLES = {"accent": _ACCENT, "soft": _SOFT}
_WIDTH = 400.0
"""Of a chart. The page shows it a little larger where two fit side by side, a little smaller on a phone."""
_POINTS_AT_MOST = 600
CELLS_WITH_NUMBERS = 15
"""Classes up to which a confusion matrix has its counts written in."""
_BYTES_AT_MOST = 1_500_000


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "accent"
    """"accent" or "soft"."""
    smooth: bool = False
    """Draw the values faintly and their running mean over them."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One pair of axes; a chart stacks one or two over the same steps."""

    lines: Sequence[Line]
    is_share: bool = False
    """Percentages on the axis."""
    log: bool | None = None
    """None: where the values span more than a factor of thirty."""
    floor: float | None = None
    """Where the axis begins."""
    ceiling: float | None = None
    """What the axis reaches at least."""
    best: tuple[float, float, str] | None = None
    """x, y and what to write there."""
    best_is_high: bool = True
    level: float | None = None
    """A faint line to compare with."""
    title: str = ""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is marked at its step in every chart."""

    resumed: Sequence[int] = field(default_factory=tuple)
    warned: Sequence[int] = field(default_factory=tuple)


def chart(strips: Sequence[Strip], *, name: str, label: str, marks: Marks, last: float, height: float = 222) -> str:
    """Draw curves over steps.

    Args:
        name: unlike that of any other picture on the page.
        label: says what is seen to those who do not see it.
        last: right end of the axis.
    """
    import matplotlib

    with matplotlib.rc_context(_RC):
        figure = _figure(_WIDTH, height)
        top, bottom, left, right, gap = 10.0, 38.0, 48.0, 20.0, 28.0
        room = height - top - bottom - gap * (len(strips) - 1)
        total = sum(strip.weight for strip in strips)
        y = height - top
        for number, strip in enumerate(strips):
            size = room * strip.weight / total
            y -= size
            axes = figure.add_axes(
                (left / _WIDTH, y / height, (_WIDTH - left - right) / _WIDTH, size / height), facecolor="none"
            )
            y -= gap
            _draw_strip(axes, strip, marks, last, is_last=number == len(strips) - 1)
        return _svg(figure, name, label)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve of shares against shares."""

    x: Sequence[float]
    y: Sequence[float]
    style: str = "accent"
    """"accent" or "soft"."""
    size: Sequence[float] = ()
    """Share of all samples that each point stands for; drawn as dots."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A ringed point."""

    x: float
    y: float


def square(
    curves: Sequence[Curve],
    *,
    name: str,
    label: str,
    x_label: str,
    y_label: str,
    mark: Mark | None = None,
    low: float = 0.0,
) -> str:
    """Draw shares against shares, both axes from ``low`` to 1, with the diagonal to compare with.

    Args:
        name: unlike that of any other picture on the page.
        label: says what is seen to those who do not see it.
    """
    import matplotlib
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    side, left, bottom, room = 264.0, 56.0, 46.0, 22.0
    width, height = left + side + room, bottom + side + room
    with matplotlib.rc_context(_RC):
        figure = _figure(width, height)
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height), facecolor="none")
        axes.plot([low, 1], [low, 1], color=_SOFT, linewidth=1.0, linestyle=(0, (4, 3)))
        for curve in curves:
            color = _STYLES[curve.style]
            axes.plot(curve.x, curve.y, color=color, linewidth=1.7, solid_joinstyle="round", clip_on=False)
            if curve.size:
                area = [12 + 260 * share for share in curve.size]
                axes.scatter(curve.x, curve.y, s=area, color=color, alpha=0.75, linewidths=0, clip_on=False, zorder=3)
        if mark is not None:
            axes.plot(
                [mark.x], [mark.y], "o", markersize=10, markerfacecolor="none", markeredgecolor=_ACCENT, clip_on=False
            )
        axes.set_xlim(low, 1)
        axes.set_ylim(low, 1)
        for axis, text in ((axes.xaxis, x_label), (axes.yaxis, y_label)):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda share, _: percent(share, places=0)))
            axis.set_label_text(text, color=_SOFT)
        axes.grid(color=_RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_color(_FAINT)
            spine.set_linewidth(0.8)
        axes.tick_params(length=0, labelcolor=_SOFT, pad=5)
        axes.tick_params(axis="x", pad=9)  # so that the labels of the corner stand apart
        return _svg(figure, name, label)


def _draw_strip(axes: Axes, strip: Strip, marks: Marks, last: float, *, is_last: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    values = np.array([y for line in strip.lines for y in line.y], dtype=float)
    values = values[np.isfinite(values)]
    positive = len(values) > 0 and values.min() > 0
    log = bool(positive and (values.max() / values.min() > 30 if strip.log is None else strip.log))
    for line in strip.lines:
        x, y = thin(line.x, line.y)
        color = _STYLES[line.style]
        few = np.isfinite(y).sum() == 1 or (len(x) <= 40 and not line.smooth)
        if line.smooth and len(x) >= 20:
            axes.plot(x, y, color=color, alpha=0.28, linewidth=1.0)
            y = running_mean(y)
        axes.plot(
            x,
            y,
            color=color,
            linewidth=1.7,
            solid_capstyle="round",
            solid_joinstyle="round",
            marker="o" if few else "",
            markersize=3.4 if np.isfinite(y).sum() > 1 else 5,
            markeredgewidth=0,
            clip_on=False,
        )
    axes.set_xlim(0, max(last, 1))
    if log:
        axes.set_yscale("log")
        decades = np.log10(values.max() / values.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(values.min() / 10 ** (0.07 * decades), values.max() * 10 ** (0.07 * decades))
    elif len(values):
        low, high = float(values.min()), float(values.max())
        if strip.floor is not None:
            low = min(low, strip.floor)
        if strip.ceiling is not None:
            high = max(high, strip.ceiling)
        if strip.level is not None:
            low, high = min(low, strip.level), max(high, strip.level)
        room = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
        axes.set_ylim(low if low == strip.floor else low - room, high + room)
        axes.yaxis.set_major_locator(MaxNLocator(4 if strip.weight >= 1 else 2, steps=[1, 2, 2.5, 5, 10]))
    as_text = (lambda y, _: _axis_percent(y, axes.get_ylim())) if strip.is_share else (lambda y, _: short(y))
    axes.yaxis.set_major_formatter(FuncFormatter(as_text))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_FAINT)
        spine.set_linewidth(0.8)
    axes.tick_params(axis="y", length=0, labelcolor=_SOFT, pad=5)
    axes.tick_params(axis="x", length=3 if is_last else 0, color=_FAINT, labelcolor=_SOFT, labelbottom=is_last)
    if is_last:
        axes.set_xlabel("step", color=_SOFT, labelpad=3)
    if strip.title:
        axes.text(0, 1.0, strip.title, transform=axes.transAxes, color=_SOFT, va="bottom", ha="left", gid="halo-title")
    if strip.level is not None:
        axes.axhline(strip.level, color=_SOFT, linewidth=1.0, linestyle=(0, (2, 3)))
    for step in marks.resumed:
        axes.axvline(step, color=_SOFT, linewidth=1.0, linestyle=(0, (4, 3)))
    if is_last and marks.warned:
        axes.plot(
            list(marks.warned),
            [0.03] * len(marks.warned),
            transform=axes.get_xaxis_transform(),
            color=_INK,
            marker="^",
            markersize=6,
            linestyle="",
            markeredgewidth=0,
            clip_on=False,
        )
    if strip.best is not None:
        x_best, y_best, text = strip.best
        axes.plot([x_best], [y_best], "o", markersize=9, markerfacecolor="none", markeredgecolor=_ACCENT, clip_on=False)
        place = x_best / max(last, 1)
        axes.annotate(
            text,
            (x_best, y_best),
            xytext=(6 if place > 0.8 else -6 if place < 0.2 else 0, -10 if strip.best_is_high else 10),
            textcoords="offset points",
            ha="right" if place > 0.8 else "left" if place < 0.2 else "center",
            va="top" if strip.best_is_high else "bottom",
            color=_ACCENT,
            gid="halo-best",
            annotation_clip=False,
        )


def _axis_percent(value: float, limits: tuple[float, float]) -> str:
    span = abs(limits[1] - limits[0])
    return percent(value, places=0 if span > 0.04 else 1 if span > 0.004 else 2)


def thin(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return at most some hundred points, each the mean of its neighbours; what is not finite stays a gap."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    ys = np.where(np.isfinite(ys), ys, np.nan)
    if len(xs) <= _POINTS_AT_MOST:
        return xs, ys
    parts = np.array_split(np.arange(len(xs)), _POINTS_AT_MOST)
    known = [ys[part][np.isfinite(ys[part])] for part in parts]
    return (
        np.array([xs[part].mean() for part in parts]),
        np.array([part.mean() if len(part) else np.nan for part in known]),
    )


def running_mean(y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the mean over a window of about a twentieth of the curve, shorter at its ends, so that both stay true."""
    half = max(1, len(y) // 40)
    means = np.full(len(y), np.nan)
    for place in range(len(y)):
        reach = min(half, place, len(y) - 1 - place)
        window = y[place - reach : place + reach + 1]
        window = window[np.isfinite(window)]
        if len(window) and np.isfinite(y[place]):
            means[place] = window.mean()
    return means


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str], *, name: str, label: str) -> str:
    """Draw a confusion matrix: a row for each true class, shaded by the share of that row."""
    import matplotlib
    from matplotlib.patches import Rectangle

    matrix = np.asarray(counts, dtype=float)
    n = len(labels)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with_numbers = n <= CELLS_WITH_NUMBERS
    every = 1 if n <= 40 else 5
    shown = [_shortened(text, 18 if n <= 40 else 14) if k % every == 0 else "" for k, text in enumerate(labels)]
    longest = max((_ems(text) for text in shown), default=1.0)
    letter = 11.0 if n <= 12 else 9.0 if n <= 24 else 8.0
    margin = max(26.0, longest * letter + 12)
    cell = min(max(44.0, 180.0 / n), (460.0 - margin) / n)
    upright = longest * letter + 4 > cell * every
    below = margin if upright else 22.0
    width, height = margin + 20 + cell * n + 8, 8 + cell * n + below + 20
    names: dict[str, str] = {}
    with matplotlib.rc_context(_RC):
        figure = _figure(width, height)
        box = ((margin + 20) / width, (below + 20) / height, cell * n / width, cell * n / height)
        axes = figure.add_axes(box, facecolor="none")
        axes.set_xlim(0, n)
        axes.set_ylim(n, 0)
        if with_numbers:
            for row in range(n):
                for column in range(n):
                    _draw_cell(axes, Rectangle, row, column, int(matrix[row, column]), float(share[row, column]), cell)
        else:
            # A colour between the page's light and dark accents: a raster cannot follow the page.
            alpha = np.where(share > 0, 0.12 + 0.88 * np.sqrt(share), 0.0)
            pixels = np.dstack([np.full_like(share, part) for part in (0.12, 0.52, 0.62)] + [alpha])
            axes.imshow(pixels, extent=(0, n, n, 0), aspect="auto", interpolation="none")
        for place in range(n + 1) if with_numbers else ():
            axes.axhline(place, color=_RULE, linewidth=0.7)
            axes.axvline(place, color=_RULE, linewidth=0.7)
        for spine in axes.spines.values():
            spine.set_color(_RULE)
        for place, text in enumerate(shown):
            if not text:
                continue
            key = f"@@{place:04d}@@"
            names[key] = text
            common: dict[str, Any] = {"color": _SOFT, "fontsize": letter}
            axes.text(-6 / cell, place + 0.5, key, ha="right", va="center_baseline", **common)
            if upright:
                axes.text(
                    place + 0.5,
                    n + 6 / cell,
                    key,
                    ha="right",
                    va="center",
                    rotation=90,
                    rotation_mode="anchor",
                    **common,
                )
            else:
                axes.text(place + 0.5, n + 5 / cell, key, ha="center", va="top", **common)
        axes.set_xticks([])
        axes.set_yticks([])
        figure.text(0.5 + (margin + 20) / width / 2, 4 / height, "predicted", ha="center", va="bottom", color=_SOFT)
        figure.text(
            2 / width, 1 - (8 + cell * n / 2) / height, "true", ha="left", va="center", rotation=90, color=_SOFT
        )
        return _svg(figure, name, label, names)


def _draw_cell(axes: Axes, rectangle: Any, row: int, column: int, value: int, share: float, cell: float) -> None:
    if value == 0:
        return
    strength = 0.07 + 0.85 * share
    axes.add_patch(rectangle((column, row), 1, 1, facecolor=_ACCENT, alpha=strength, linewidth=0))
    text = f"{value:,}" if value < 10_000 else short(value)
    axes.text(
        column + 0.5,
        row + 0.5,
        text,
        ha="center",
        va="center_baseline",
        fontsize=min(13.0, 1.7 * cell / max(len(text), 3.2)),
        color=_PAPER if strength > 0.5 else _INK,
    )


def attention(source: Sequence[str], target: Sequence[str], weights: Any, *, name: str, label: str) -> str:
    """Draw where in a source a model looked, a row for each token that it wrote."""
    import matplotlib

    from strata.predict.attention import draw, layout

    stand_ins = [f"NAME{place:04d}" for place in range(len(source) + len(target))]
    width, height, box = layout(source, target)
    with matplotlib.rc_context(_RC):
        figure = _figure(width, height)
        axes = figure.add_axes(box, facecolor="none")
        draw(axes, stand_ins[: len(source)], stand_ins[len(source) :], weights, ink=_INK, rule=_RULE)
        return _svg(figure, name, label, dict(zip(stand_ins, [*source, *target], strict=True)))


def _ems(text: str) -> float:
    """Return how wide a text is at most, in sizes of its letters: the page's fonts are not known here, and differ."""
    import unicodedata

    def width(character: str) -> float:
        if unicodedata.east_asian_width(character) in "WF":
            return 1.05
        if character in "ijl|!'.,:;()[] ftI-":
            return 0.4
        if character in "mwMW@%…":
            return 1.0
        return 0.76 if character.isupper() else 0.61

    return sum(map(width, text))


def _shortened(text: str, letters: int) -> str:
    """Return a name with its middle left out where it is longer than so many letters of usual width."""
    text, most = " ".join(text.split()), 0.61 * letters
    if _ems(text) <= most:
        return text
    end = text[-5:].lstrip()  # names often differ only at their end
    start = text[:-5]
    while start and _ems(f"{start}…{end}") > most:
        start = start[:-1]
    return f"{start.rstrip()}…{end}"


_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "strata",
    "text.usetex": False,
    "font.size": 11,
    "axes.formatter.use_locale": False,
}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")


def _svg(figure: Figure, name: str, label: str, names: dict[str, str] | None = None) -> str:
    """Return a figure as an SVG element for the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index(">", text.index("<svg")) + 1 :]
    width, height = figure.get_size_inches() * 72
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{html.escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{1.3 * width:.0f}px">'
    )
    text = re.sub(r'<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's letters
    text = re.sub(r"\bfont: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used or m[1].startswith("halo") else "", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    for stand_in, variable in _CSS.items():
        text = text.replace(stand_in, variable)
    for key, real in (names or {}).items():
        text = text.replace(key, html.escape(real))
    return opening + text


@dataclass(frozen=True)
class Inlined:
    """A picture that lies in the page."""

    uri: str
    width: int
    height: int


def inline(path: Path) -> Inlined | None:
    """Return a picture file as a data URI, made smaller where it is large; None when it cannot be read."""
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            kind, (width, height) = picture.format, picture.size
            if kind not in ("PNG", "JPEG", "WEBP", "GIF") or len(content) > _BYTES_AT_MOST:
                small = picture.convert("RGB")
                small.thumbnail((1600, 1600))
                buffer = io.BytesIO()
                small.save(buffer, format="JPEG", quality=88)
                content, kind, (width, height) = buffer.getvalue(), "JPEG", small.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # half written, or no picture at all
        return None
    return Inlined(f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}", width, height)
