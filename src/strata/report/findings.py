"""What a model does: samples that it made, classes that it confuses, its worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from strata.report import pictures
from strata.report.history import History, Record, as_dict, as_list, inside
from strata.report.words import DASH, count, counted, finite, number, percent

_PAIRS_AT_MOST = 8
_CLASSES_UNFOLDED = 20
_LETTERS_AT_MOST = 6000
_COLUMNS_AT_MOST = 6
_MAPS_AT_MOST = 3


def samples(history: History) -> Record | None:
    files = list(history.samples)
    told = {path for _, path in files}
    folder = history.folder / "samples"
    for path in folder.glob("step-*.*") if folder.is_dir() else ():
        digits = path.stem.removeprefix("step-")
        found = inside(history.folder, f"samples/{path.name}")
        if digits.isdigit() and found is not None and found not in told and path.suffix in (".png", ".txt"):
            files.append((int(digits), found))
    files.sort()
    texts = [(step, path) for step, path in files if path.suffix == ".txt"]
    grids = [(step, path) for step, path in files if path.suffix != ".txt"]
    shown: Record = {"texts": [], "grids": []}
    for step, path in [*texts[:-1][:1], *texts[-1:]]:
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) > _LETTERS_AT_MOST:
            text = text[:_LETTERS_AT_MOST].rstrip() + " …"
        shown["texts"].append({"when": history.when(step), "text": text, "is_last": (step, path) == texts[-1]})
    for step, path in _spread(grids, 4):
        picture = pictures.inline(path)
        if picture is not None:
            shown["grids"].append({"when": history.when(step), "picture": picture})
    shown["texts"].reverse()
    if not shown["texts"] and not shown["grids"]:
        return None
    if shown["grids"]:
        same = "every picture comes from the same noise each time" if len(shown["grids"]) > 1 else "drawn from noise"
        shown["caption"] = (
            f"What the generator made at {shown['grids'][-1]['when']}, not picked by hand; "
            f"{same}, so the change from one to the next is learning alone."
            if len(shown["grids"]) > 1
            else f"What the generator made at {shown['grids'][-1]['when']}, drawn from noise and not picked by hand."
        )
    return shown


def examples(history: History) -> Record | None:
    """Return the rows of pictures that a model made of pictures."""
    told = as_dict(history.end.get("examples"))
    path = inside(history.folder, told.get("file"))
    picture = pictures.inline(path) if path is not None else None
    if picture is None:
        return None
    split = "test" if "test" in history.results else "validation"
    return {
        "picture": picture,
        "caption": f"The first {counted(int(finite(told.get('count')) or 0), 'picture')} of the {split} split, not "
        "picked by hand: what the model saw, what it made of it, and what was wanted.",
    }


def texts(history: History) -> Record | None:
    """Return texts of held-out data with what the model made of them, and pictures of where it looked."""
    told = [example for example in as_list(history.end.get("texts")) if isinstance(example, dict)]
    if not told:
        return None
    rows: list[Record] = []
    maps: list[Record] = []
    for example in told:
        written = str(example.get("written", ""))
        wanted = [str(text) for text in as_list(example.get("references"))]
        rows.append({"source": str(example.get("source", "")), "written": written, "references": wanted})
        seen = as_dict(example.get("attention"))
        source, target = ([str(token) for token in as_list(seen.get(side))] for side in ("source", "target"))
        weights = as_list(seen.get("weights"))
        if source and len(weights) == len(target) and all(len(as_list(row)) == len(source) for row in weights):
            svg = pictures.attention(source, target, weights, name=f"looked-{len(maps)}", label=f"For: {written}")
            maps.append({"svg": svg, "written": written})
    split = "test" if "test" in history.results else "validation"
    return {
        "rows": rows,
        "maps": maps[:_MAPS_AT_MOST],
        "caption": f"The first {counted(len(rows), 'text')} of the {split} split, not picked by hand.",
    }


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most that many items, first and last among them, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


def confusion(history: History) -> Record | None:
    told = as_dict(history.end.get("confusion"))
    counts, labels = as_list(told.get("counts")), [str(label) for label in as_list(told.get("labels"))]
    if not labels or len(counts) != len(labels) or any(len(as_list(row)) != len(labels) for row in counts):
        return None
    n, size = sum(map(sum, counts)), len(labels)
    if n == 0:
        return None
    split = _split_of(history, n)
    right = sum(counts[k][k] for k in range(size))
    pairs = sorted(
        ((counts[row][column], row, column) for row in range(size) for column in range(size) if row != column),
        key=lambda pair: -pair[0],
    )
    pairs = [pair for pair in pairs if pair[0] > 0]
    classes = [row for row in as_list(history.end.get("classes")) if isinstance(row, dict)]
    of = f"of the {split} split" if split else ""
    caption = (
        f"Each row is a true class, each column what the model said, over {history.counted(n)} {of}".rstrip()
        + f". {count(right)} {'lies' if right == 1 else 'lie'} on the diagonal, where both agree; "
        + f"{count(n - right)} {'does' if n - right == 1 else 'do'} not."
    )
    if finite(as_dict(history.end.get("detection")).get("threshold")) is not None:
        caption += " What the model said is here its likeliest class, whatever the threshold."
    if pairs and pairs[0][0] == 1:
        caption += " No two classes were confused more than once."
    elif pairs:
        most, row, column = pairs[0]
        caption += f" The most frequent mistake: “{labels[row]}” taken for “{labels[column]}”, {_times(most)}."
    hardest = sorted((c for c in classes if c["recall"] is not None), key=lambda c: c["recall"])
    return {
        "svg": pictures.confusion(counts, labels, name="confusion", label=caption),
        "caption": caption,
        "pairs": [
            {"true": labels[row], "predicted": labels[column], "count": many, "share": many / sum(counts[row])}
            for many, row, column in pairs[:_PAIRS_AT_MOST]
        ],
        "classes": classes,
        "hardest": hardest[:10] if size > _CLASSES_UNFOLDED else None,
        "split": split,
    }


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{count(n)} times")


def _split_of(history: History, samples: int) -> str:
    """Return the split that has that many samples, the test split first, as the loop does; or nothing."""
    splits = history.splits
    return next((name for name in ("test", "validation") if splits.get(name) == samples), "")


def mistakes(history: History) -> Record | None:
    told = [mistake for mistake in as_list(history.end.get("mistakes")) if isinstance(mistake, dict)]
    if not told:
        return None
    is_number = history.task_kind == "regress"
    shown: list[Record] = []
    for mistake in told:
        path = inside(history.folder, mistake.get("file"))
        confidence = finite(mistake.get("confidence"))
        shown.append(
            {
                "picture": pictures.inline(path) if path is not None else None,
                "row": as_dict(mistake.get("row")),
                **_both_sides(mistake, is_number),
                "confidence": None if confidence is None or is_number else confidence,
                "sample": mistake.get("sample"),
                "place": mistake.get("place"),
            }
        )
    with_pictures = [mistake for mistake in shown if mistake["picture"] is not None]
    if with_pictures:
        return {"pictures": with_pictures, "rows": None, "caption": _mistakes_caption(history, with_pictures)}
    if not any(mistake["row"] for mistake in shown):
        for mistake in shown:
            mistake["row"] = {"sample": mistake["sample"]}
    columns = list(dict.fromkeys(str(key) for mistake in shown for key in mistake["row"]))[:_COLUMNS_AT_MOST]
    for mistake in shown:
        mistake["cells"] = [_cell(mistake["row"].get(column)) for column in columns]
    numeric = [all(isinstance(m["row"].get(c), int | float | None) for m in shown) for c in columns]
    caption = (
        f"The {history.nouns} whose prediction is furthest off."
        if is_number
        else f"The {history.nouns} on which the model was most sure of something wrong."
    )
    has_confidence = any(mistake["confidence"] is not None for mistake in shown)
    return {
        "pictures": None,
        "rows": shown,
        "columns": [{"name": name, "is_number": is_n} for name, is_n in zip(columns, numeric, strict=True)],
        "is_number": is_number,
        "has_confidence": has_confidence,
        "is_narrow": len(columns) <= 2,
        "caption": caption,
    }


def _mistakes_caption(history: History, mistakes: list[Record]) -> str:
    split = "test" if "test" in history.results else "validation"
    first = mistakes[0]
    sure = f", {percent(first['confidence'], places=0)} sure" if first["confidence"] is not None else ""
    return (
        f"The {counted(len(mistakes), 'picture')} of the {split} split that the model got most wrong, the worst first. "
        f"The first is “{first['true']}”; the model said “{first['predicted']}”{sure}."
    )


def _both_sides(mistake: Record, is_number: bool) -> Record:
    """Return what was true, what was predicted and, of numbers, how far off that was; numbers to the place it needs."""
    told = {side: mistake.get(side) for side in ("true", "predicted")}
    if not is_number:
        return {side: DASH if value is None else str(value) for side, value in told.items()} | {"off": None}
    known = {side: _as_number(value) for side, value in told.items()}
    error = finite(mistake.get("error"))
    if error is None and known["true"] is not None and known["predicted"] is not None:
        error = abs(known["predicted"] - known["true"])
    shown = {side: number(value, _digits(value, error)) for side, value in known.items()}
    return shown | {"off": number(error)}


def _digits(value: float | None, error: float | None) -> int:
    """Return how many digits of a value show an error of that size: three of the error's own, and four at least."""
    if not value or not error:
        return 4
    return min(12, max(4, math.floor(math.log10(abs(value))) - math.floor(math.log10(error)) + 3))


def _as_number(value: Any) -> float | None:
    """Return a number, also one that was written as text."""
    try:
        return finite(float(value))
    except (TypeError, ValueError):
        return None


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and finite(value) is None):
        return DASH
    return number(value) if isinstance(value, float) else str(value)
