"""How well one class is found among the others, how true the probabilities are, and what that means in use.

Of patients it speaks only where the recipe is a medical one.

Every interval says how it was made: Wilson's for a share, DeLong's for an area under the ROC curve.
"""

from __future__ import annotations

from typing import Any

from strata.report import pictures
from strata.report.history import History, Record, as_dict, as_list
from strata.report.pictures import Curve, Mark
from strata.report.words import area as area_text
from strata.report.words import count, counted, finite, interval, listed, number, percent, wilson

PREVALENCES = (0.01, 0.05, 0.2)
"""How frequent what is looked for may be, to show what a finding is worth at each."""

MEDICAL = frozenset(("pneumonia",))
"""Recipes whose model looks for something in people."""

CALIBRATE_FROM = 0.05
"""Calibration error from which the report says what helps."""


def _might_calibrate(history: History) -> bool:
    """Say whether a temperature was not asked for, and there is what would choose it."""
    return as_dict(history.recipe.get("task")).get("calibrate") is False and bool(history.splits.get("validation"))


def calibration(history: History) -> Record | None:
    told = as_dict(history.end.get("calibration"))
    after, before = as_list(told.get("bins")), as_dict(told.get("before"))
    rows = _bins(after)
    if not rows:
        return None
    split, ece = _split(history), finite(told.get("ece"))
    earlier, temperature = finite(before.get("ece")), finite(told.get("temperature"))
    curves = [Curve(x=[row[0] for row in rows], y=[row[1] for row in rows], size=[row[2] for row in rows])]
    legend = [("accent", "this model"), ("dash", "true probabilities")]
    caption = (
        f"The {history.nouns} of the {split} split, grouped by how sure the model was of its answer: how often it was "
        "right. Larger dots stand for more. "
        f"Confidence and truth lie {percent(ece)} apart on average (expected calibration error, 15 bins)."
    )
    if earlier is not None and temperature is not None:
        old = _bins(as_list(before.get("bins")))
        curves.insert(0, Curve(x=[r[0] for r in old], y=[r[1] for r in old], size=[r[2] for r in old], style="soft"))
        legend.insert(1, ("soft", "before calibration"))
        caption += (
            f" Before calibration it was {percent(earlier)}: scores are divided by a temperature of "
            f"{number(temperature, 3)}, which validation data chose."
        )
        if ece is not None and ece >= earlier:
            caption += f" On the {split} split that gained nothing."
    elif ece is not None and ece >= CALIBRATE_FROM and _might_calibrate(history):
        caption += " With task.calibrate=true, validation data would choose a temperature that brings them together."
    low = min(x for curve in curves for x in curve.x)
    svg = pictures.square(
        curves,
        name="calibration",
        label=caption,
        x_label="how sure it was",
        y_label="how often it was right",
        low=min(int(low * 10) / 10, int(min(y for curve in curves for y in curve.y) * 10) / 10),
    )
    return {"title": "How true its probabilities are", "svg": svg, "caption": caption, "legend": legend}


def _bins(bins: list[Any]) -> list[tuple[float, float, float]]:
    """Return (mean confidence, share right, share of all samples) of each bin that holds any."""
    total = sum(row[0] for row in bins)
    return [(row[1] / row[0], row[2] / row[0], row[0] / total) for row in bins if row[0]]


def roc(history: History) -> Record | None:
    told = as_dict(history.end.get("detection"))
    points, area = as_list(told.get("roc")), finite(told.get("auroc"))
    if not points or area is None:
        return None
    name, split = f"“{told['positive']}”", _split(history)
    found, alone = _rates(told)
    edges = as_list(told.get("interval"))
    sure = f", 95 % interval {area_text(edges[0])} to {area_text(edges[1])} by DeLong" if edges else ""
    caption = (
        f"The share of {name} that is found, against the share of the others that is taken for it, at every threshold "
        f"({split} split). The area under the curve is {area_text(area)}{sure}; 0.5 is guessing."
    )
    caption += f" The ring is {_operating(told)}: sensitivity {percent(found)}, specificity {percent(alone)}."
    svg = pictures.square(
        [Curve(x=[x for x, _ in points], y=[y for _, y in points])],
        name="roc",
        label=caption,
        x_label="others taken for it",
        y_label="found",
        mark=Mark(x=1 - alone, y=found),
    )
    return {
        "title": f"Finding {name}",
        "svg": svg,
        "caption": caption,
        "legend": [("accent", "this model"), ("dash", "guessing"), ("ring", "where it is used")],
    }


def _operating(told: Record, *, starts: bool = False) -> str:
    """Return what decides between finding and none; with ``starts``, as a sentence begins with it."""
    threshold = finite(told.get("threshold"))
    if threshold is None:
        return f"{'Where' if starts else 'where'} it answers with the likeliest class"
    return f"{'At the' if starts else 'the'} threshold of {number(threshold, 3)} that validation data chose"


def _rates(told: Record) -> tuple[float, float]:
    return told["found"] / told["positives"], told["left_alone"] / told["negatives"]


def _split(history: History) -> str:
    return "test" if "test" in history.results else "validation"


def use(history: History) -> Record | None:
    """Return what must be known before a model that looks for a named class is used."""
    told = as_dict(history.end.get("detection"))
    if not history.task.get("positive") or not told or not told["positives"] or not told["negatives"]:
        return None
    found, alone = _rates(told)
    name, split = f"“{told['positive']}”", _split(history)
    return {
        "title": "Before this is used on patients" if _is_medical(history) else "Before this is used",
        "link": "On patients" if _is_medical(history) else "Before use",
        "warnings": [
            _on_threshold(history, told),
            _on_numbers(told, name, split),
            _on_groups(history, split),
            _on_balance(history, told, name, split),
            _on_source(history, split),
            *_on_size(history),
            "The figures are of one training run. The intervals do not include the spread between runs.",
        ],
        "positive": name,
        "prevalences": [
            {
                "prevalence": share,
                "ppv": percent(_over(found * share, (1 - alone) * (1 - share))),
                # Two places, for "100.0 %" would promise that none is missed.
                "npv": percent(_over(alone * (1 - share), (1 - found) * share), places=2),
                "note": note,
            }
            for share, note in (
                *((share, "") for share in PREVALENCES),
                (told["positives"] / (told["positives"] + told["negatives"]), f"as in the {split} split"),
            )
        ],
        "operating": f"{_operating(told, starts=True)}, with the sensitivity of {percent(found)} and the specificity "
        f"of {percent(alone)} measured on the {split} split.",
    }


def _is_medical(history: History) -> bool:
    return str(history.recipe.get("recipe")) in MEDICAL


def _over(right: float, wrong: float) -> float | None:
    return right / (right + wrong) if right + wrong else None


def _on_threshold(history: History, told: Record) -> str:
    name, split, threshold = f"“{told['positive']}”", _split(history), finite(told.get("threshold"))
    if threshold is None:
        return (
            f"No threshold was chosen: the model says {name} where it is the likeliest class, as if to miss one and to "
            "raise a false alarm were equally bad. With task.specificity=0.9 it chooses a threshold."
        )
    n, asked = history.splits.get("validation"), finite(told.get("asked_specificity"))
    says = (
        f"From a probability of {number(threshold, 3)} on, {name} counts as found. The threshold was chosen on the "
        f"{history.counted(n)} of the validation split, as the lowest that leaves {percent(asked, places=0)} of the "
        "others there alone."
    )
    if split == "validation":
        return f"{says} There is no test split, so what it does on other {history.nouns} is not known."
    low, high = wilson(told["left_alone"], told["negatives"])
    says += f" On the test split it leaves {percent(told['left_alone'] / told['negatives'])} alone"
    if asked is not None and not low <= asked <= high:
        return (
            f"{says}, {'fewer' if high < asked else 'more'} than chance explains: the test {history.nouns} are not "
            "like those that chose it. It has to be chosen anew where the model is to be used."
        )
    return f"{says}, as far as {counted(told['negatives'], 'sample')} can tell the same."


def _on_numbers(told: Record, name: str, split: str) -> str:
    positives, negatives = told["positives"], told["negatives"]
    edges = as_list(told.get("interval"))
    area = (
        f"; AUROC {area_text(told['auroc'])}, {area_text(edges[0])} to {area_text(edges[1])} (DeLong)" if edges else ""
    )
    return (
        f"The {split} split holds {count(positives)} of {name} and {count(negatives)} others; the 95 % intervals are "
        f"as wide as that makes them. Sensitivity {percent(told['found'] / positives)} ({count(told['found'])} of "
        f"{count(positives)}; {interval(wilson(told['found'], positives))}, Wilson), specificity "
        f"{percent(told['left_alone'] / negatives)} ({count(told['left_alone'])} of {count(negatives)}; "
        f"{interval(wilson(told['left_alone'], negatives))}, Wilson){area}."
    )


def _on_groups(history: History, split: str) -> str:
    group, is_medical = history.data_config.get("group"), _is_medical(history)
    if group:
        says = f"The data was grouped by data.group={group}; groups found in several splits stand under Data."
        return f"{says} It keeps patients apart only where each group is a patient." if is_medical else says
    alike = "are of the same patient" if is_medical else "belong together, of one person, thing or place"
    one = "one patient" if is_medical else "one group"
    return (
        f"Nothing says which {history.nouns} {alike} (data.group is not set). Those of {one} may lie in both training "
        f"and {split} data, which would flatter every figure on this page."
    )


def _on_source(history: History, split: str) -> str:
    others = [history.data_config.get(part) for part in ("validation", "test")]
    elsewhere = [path for path in others if isinstance(path, str) and not _is_number(path)]
    source = (
        f"Beside the training data, {listed(elsewhere)} {'were' if len(elsewhere) > 1 else 'was'} read"
        if elsewhere
        else f"Training and {split} data come from one source, {history.data_name}"
    )
    origin = "another hospital, device or group of people" if _is_medical(history) else "another origin"
    return (
        f"{source}. What the model does on {history.nouns} of {origin} was not measured; "
        "strata evaluate RUN data=PATH measures it on yours."
    )


def _is_number(text: str) -> bool:
    """Say whether a setting that may be a path is a share or a count."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _on_balance(history: History, told: Record, name: str, split: str) -> str:
    labels, counts = as_list(history.data.get("labels")), as_list(history.data.get("class_counts"))
    here = told["positives"] / (told["positives"] + told["negatives"])
    learned = ""
    if told["positive"] in labels and len(counts) == len(labels) and sum(counts):
        learned = f"{percent(counts[labels.index(told['positive'])] / sum(counts))} of the training data and "
    where = "is not its frequency in a clinic" if _is_medical(history) else "need not be its frequency in use"
    return (
        f"{name} is {learned}{percent(here)} of the {split} split, which {where}. "
        "Where it is rarer, more of what is found is false alarm: the table says how much. The probabilities, too, are "
        "true at best for the balance of the data."
    )


def _on_size(history: History) -> list[str]:
    side = history.model_config.get("image_size") if history.data_kind == "image" else None
    return (
        [f"Pictures are seen at {side} x {side} pixels; what is finer than that, the model cannot see."] if side else []
    )
