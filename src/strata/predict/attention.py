"""What a model that writes looked at in what it read, as a picture (Bahdanau et al. 2015, Figure 3).

S source tokens, T target tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CELL, _LETTER, _EDGE = 17.0, 6.2, 8.0
"""Points: the side of a cell, the width of a letter, the margin."""
_COLOR = (0.05, 0.39, 0.47)


@dataclass(frozen=True)
class AttentionMap:
    """Which tokens of a source a model looked at while it wrote each token: `save` draws it."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    """What was written, with the mark of its end."""
    weights: tuple[tuple[float, ...], ...]
    """A row for each written token, a column for each source token; rows sum to 1."""

    def save(self, path: Path | str) -> Path:
        """Write the picture, as the path's extension says (.png, .svg, .pdf), and return the path."""
        import matplotlib
        from matplotlib.figure import Figure

        width, height, box = layout(self.source, self.target)
        path = Path(path)
        aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        with matplotlib.rc_context({"svg.hashsalt": "strata", "svg.fonttype": "none"}):
            figure = Figure(figsize=(width / 72, height / 72), dpi=200)
            draw(figure.add_axes(box), self.source, self.target, self.weights)
            figure.savefig(aside)
        aside.replace(path)
        return path


def layout(source: Sequence[str], target: Sequence[str]) -> tuple[float, float, tuple[float, float, float, float]]:
    """Return a picture's width and height in points, and where in it the cells stand: left, bottom, width, height."""
    left = _EDGE + _LETTER * max(map(len, target)) + 6
    top = _EDGE + _LETTER * max(map(len, source)) + 6
    across, down = _CELL * len(source), _CELL * len(target)
    width, height = left + across + _EDGE, top + down + _EDGE
    return width, height, (left / width, _EDGE / height, across / width, down / height)


def draw(
    axes: Axes,
    source: Sequence[str],
    target: Sequence[str],
    weights: Sequence[Sequence[float]],
    *,
    ink: str = "black",
    rule: str = "lightgrey",
) -> None:
    """Draw how much each target token, a row, looked at each source token: the darker, the more."""
    shown: Any = axes
    share_TS = np.asarray(weights, dtype=float)
    pixels = np.dstack([np.full_like(share_TS, part) for part in _COLOR] + [np.clip(share_TS, 0.0, 1.0)])
    shown.set_facecolor("none")
    shown.imshow(pixels, extent=(0, len(source), len(target), 0), aspect="auto", interpolation="none")
    shown.xaxis.tick_top()
    shown.set_xticks(np.arange(len(source)) + 0.5, source, rotation=90, color=ink)
    shown.set_yticks(np.arange(len(target)) + 0.5, target, color=ink)
    for label in (*shown.get_xticklabels(), *shown.get_yticklabels()):
        label.set_parse_math(False)
        label.set_fontsize(10)
    shown.tick_params(length=0, pad=4)
    for spine in shown.spines.values():
        spine.set_color(rule)
    for k in range(1, max(len(source), len(target))):
        if k < len(source):
            shown.axvline(k, color=rule, linewidth=0.4)
        if k < len(target):
            shown.axhline(k, color=rule, linewidth=0.4)
