"""How a run learned: charts over its steps, each with a sentence that says what it shows.

One accent colour: what is measured on held-out data, or the generator. Training itself is drawn in a softer ink.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from strata.report import pictures
from strata.report.history import History, Record, as_dict, as_list
from strata.report.pictures import Line, Marks, Strip
from strata.report.words import counted, finite, listed, median, metric, number, percent, rate

_SECOND_METRICS = ("accuracy", "r2", "mae", "perplexity")


def curves(history: History) -> list[Record]:
    found = [
        _loss_figure(history),
        _metric_figure(history),
        _rate_figure(history),
        _throughput_figure(history),
        _flow_figure(history),
    ]
    figures = [figure for figure in found if figure is not None]
    for place, figure in enumerate(figures):
        figure["number"] = place + 1
    return figures


def _series(lines: Iterable[Record], value: Any) -> tuple[list[float], list[float]]:
    """Return the steps and values of what ``value`` finds in each line; gaps where it is not finite."""
    x: list[float] = []
    y: list[float] = []
    for line in lines:
        raw = value(line)
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            x.append(line["step"])
            y.append(float(raw) if finite(raw) is not None else float("nan"))
    return x, y


def _known(y: list[float]) -> list[float]:
    return [value for value in y if finite(value) is not None]


def _marks(history: History) -> Marks:
    return Marks(resumed=tuple(history.resumed), warned=tuple(step for step, _ in history.warnings if step > 0))


def _last(history: History) -> float:
    return float(max(history.total_steps or 0 if history.finished is None else 0, history.last_step))


def _figure(history: History, title: str, strips: list[Strip], caption: str, legend: list[tuple[str, str]]) -> Record:
    name = f"chart-{''.join(letter for letter in title.lower() if letter.isalpha())}"
    marks = _marks(history)
    if any(strip.best for strip in strips):
        legend = [*legend, ("ring", "best")]
    if marks.resumed:
        legend = [*legend, ("dash", "resumed")]
    if marks.warned:
        legend = [*legend, ("triangle", "warning")]
    svg = pictures.chart(strips, name=name, label=f"{title}. {caption}", marks=marks, last=_last(history))
    return {"title": title, "svg": svg, "caption": caption, "legend": legend}


def _loss_figure(history: History) -> Record | None:
    phases = list(dict.fromkeys(name for line in history.steps for name in as_dict(line.get("losses"))))
    if len(phases) > 1:
        return _phases_figure(history, phases)
    x, y = _series(history.steps, lambda line: line.get("loss"))
    x_val, y_val = _series(history.evaluations.get("validation", []), lambda line: line["metrics"].get("loss"))
    lines = [Line(name="training", x=x, y=y, style="soft", smooth=True)] if x else []
    lines += [Line(name="validation", x=x_val, y=y_val)] if x_val else []
    if not lines or not _known(y + y_val):
        return None
    says = []
    train, validation = _known(pictures.running_mean(pictures.thin(x, y)[1]).tolist()) if x else [], _known(y_val)
    if len(train) > 1:
        says.append(f"The training loss went from {number(train[0], 3)} to {number(train[-1], 3)}.")
    elif train:
        says.append(f"The training loss was written down once: {number(train[0], 3)}.")
    best = history.best("validation", "loss")
    if best is not None:
        says.append(f"On validation data it was lowest, {number(best[1])}, at {history.when(best[0])}")
        rise = validation[-1] / best[1] - 1 if best[1] > 0 else 0.0
        if rise > 0.05:
            says[-1] += f", and has risen to {number(validation[-1])} since{_why_it_rose(history, *best)}."
        else:
            says[-1] += f"; it ended at {number(validation[-1])}." if validation[-1] != best[1] else "."
    if softened := _softened(history, has_validation=bool(x_val)):
        effect = "so its loss may lie above that of validation" if x_val else "which raises its loss"
        says.append(f"Training is made harder by {softened}, {effect}.")
    if any(finite(value) is None for value in y + y_val):
        says.append("Gaps are steps whose loss was not a finite number.")
    strip = Strip(lines=lines, best=(best[0], best[1], number(best[1])) if best else None, best_is_high=False)
    legend = [("soft", "training")] * bool(x) + [("accent", "validation")] * bool(x_val)
    title = "Loss, in nats per token" if history.task_kind == "next_token" else "Loss"
    return _figure(history, title, [strip], " ".join(says), legend)


def _why_it_rose(history: History, best_step: int, best: float) -> str:
    """Return in words what a rise of the validation loss comes with; nothing where too little is known to say.

    A model learns by heart where its training loss goes on falling while the validation loss rises steadily: its last
    three values lie 5 % and two usual jumps above the best, in the second pass over the data or later.
    """
    x, y = _series(history.steps, lambda line: line.get("loss"))
    after = [value for step, value in zip(x, y, strict=True) if step > best_step and finite(value) is not None]
    before = [value for step, value in zip(x, y, strict=True) if step <= best_step and finite(value) is not None]
    width = max(1, len(after) // 4)
    if not after or not before:
        return ""
    then, now = (sum(part[-width:]) / len(part[-width:]) for part in (before, after))
    if now > then:
        return ", as the training loss has"
    _, y_val = _series(history.evaluations.get("validation", []), lambda line: line["metrics"].get("loss"))
    known = _known(y_val)
    since = known[known.index(best) :]
    jump = median(abs(one - other) for one, other in pairwise(since))
    is_steady = len(since) > 3 and min(since[-3:]) > max(1.05 * best, best + 2 * jump)
    is_seen_again = history.last_step >= 2 * (history.steps_per_epoch or 0)
    if is_steady and is_seen_again and now < 0.98 * then:
        return " while the training loss fell on, a sign that the model began to learn its training data by heart"
    return ""


def _softened(history: History, *, has_validation: bool) -> str:
    """Return in words what makes the training loss higher than the same loss on plain data.

    Args:
        has_validation: there is a loss of validation beside, which of a classifier's is smoothed, too.
    """
    augment = as_dict(history.data_config.get("augment"))
    is_image = history.data_kind in ("image", "pairs")
    is_probe = as_dict(history.recipe.get("weights")).get("tune") == "probe"  # of pictures as they are
    others = ("padding", "mixup", "cutmix", "policy_ops", "policy_magnitude")
    changed = is_image and any(v and v != "none" for name, v in augment.items() if name not in others)
    is_smoothed_too = has_validation and history.task_kind == "classify"
    model = history.model_config
    found = {
        "label smoothing": None if is_smoothed_too else history.task.get("label_smoothing"),
        "dropout": model.get("dropout") or model.get("attention_dropout"),
        "stochastic depth": model.get("stochastic_depth"),
        "the losses of auxiliary heads": model.get("auxiliary"),
        "mixup": not is_probe and augment.get("mixup"),
        "cutmix": not is_probe and augment.get("cutmix"),
        "randomly changed pictures": changed and not is_probe,
    }
    return listed([name for name, value in found.items() if value])


def _phases_figure(history: History, phases: list[str]) -> Record | None:
    styles = ["soft", "accent"]
    lines, legend, says = [], [], []
    for place, name in enumerate(phases[:2]):
        x, y = _series(history.steps, lambda line, name=name: as_dict(line.get("losses")).get(name))
        known = _known(pictures.running_mean(pictures.thin(x, y)[1]).tolist())
        if not known:
            continue
        lines.append(Line(name=name, x=x, y=y, style=styles[place], smooth=True))
        legend.append((styles[place], name))
        whence = f"from {number(known[0], 3)} to {number(known[-1], 3)}" if len(known) > 1 else number(known[0], 3)
        says.append(f"the {name}'s {whence}")
    if not lines:
        return None
    caption = f"The losses went: {listed(says)}."
    if history.task_kind == "adversarial":
        caption += " They play against each other, so neither need fall; what matters is that neither runs away."
    return _figure(history, "Losses", [Strip(lines=lines, log=False)], caption, legend)


def _metric_figure(history: History) -> Record | None:
    lines = history.evaluations.get("validation", [])
    if history.task_kind == "adversarial":
        return _belief_figure(history, lines)
    main = history.main_metric
    names = [name for name in (main, *_SECOND_METRICS) if name and name != "loss"]
    name = next((name for name in names if any(finite(line["metrics"].get(name)) is not None for line in lines)), None)
    if name is None:
        return None
    read, n = metric(name), history.splits.get("validation")
    x, y = _series(lines, lambda line: line["metrics"].get(name))
    best = history.best("validation", name)
    known = _known(y)
    if best is None:
        return None
    caption = f"Validation {read.label} went from {read.show(known[0], n)} to {read.show(known[-1], n)}"
    caption += (
        f"; best was {read.show(best[1], n)}, at {history.when(best[0])}." if best[1] != known[-1] else ", its best."
    )
    if len(known) == 1:
        caption = f"Validation {read.label} was measured once: {read.show(known[0], n)}, at {history.when(int(x[0]))}."
    if name == main and finite(history.train.get("early_stopping")) is not None:
        kept = "moving average of the weights at" if history.averages else "weights of"
        caption += f" The {kept} the best point {'is' if history.averages else 'are'} kept."
    strip = Strip(
        lines=[Line(name="validation", x=x, y=y)],
        is_share=read.is_share,
        log=None if not read.is_share and not read.higher_is_better else False,
        best=(best[0], best[1], read.show(best[1], n)),
        best_is_high=read.higher_is_better,
    )
    return _figure(history, f"{read.label[0].upper()}{read.label[1:]}", [strip], caption, [("accent", "validation")])


def _belief_figure(history: History, lines: list[Record]) -> Record | None:
    x_real, y_real = _series(lines, lambda line: line["metrics"].get("belief_in_real"))
    x_made, y_made = _series(lines, lambda line: line["metrics"].get("belief_in_fake"))
    if not _known(y_real) or not _known(y_made):
        return None
    strip = Strip(
        lines=[
            Line(name="real", x=x_real, y=y_real, style="soft"),
            Line(name="made", x=x_made, y=y_made),
        ],
        is_share=True,
        log=False,
        floor=0.0,
        level=0.5,
    )
    caption = (
        "How real the discriminator takes pictures to be, at the end: "
        f"real ones {percent(_known(y_real)[-1], places=0)}, made ones {percent(_known(y_made)[-1], places=0)}. "
        "If the two were equal, it could not tell made from real."
    )
    return _figure(
        history, "Belief of the discriminator", [strip], caption, [("soft", "in real"), ("accent", "in made")]
    )


def _rate_figure(history: History) -> Record | None:
    x, y = _series(history.steps, lambda line: line.get("learning_rate"))
    known = _known(y)
    if not known:
        return None
    peak = x[y.index(max(known))]
    schedule = str(history.train.get("schedule") or "").replace("_", " ")
    optimizer = str(history.train.get("optimizer") or "")
    caption = f"The learning rate was highest, {number(max(known))}, at {history.when(int(peak))} "
    caption += f"and ended at {number(known[-1], 3)}"
    if max(known) == min(known):
        caption = f"The learning rate stayed at {number(known[0])}"
    caption += f"; schedule {schedule}" * bool(schedule) + f", optimiser {optimizer}" * bool(optimizer) + "."
    strips = [Strip(lines=[Line(name="learning rate", x=x, y=y)], log=False, floor=0.0, weight=1.4)]
    x_norm, y_norm = _series(history.steps, lambda line: line.get("gradient_norm"))
    if _known(y_norm):
        strips.append(
            Strip(
                lines=[Line(name="norm", x=x_norm, y=y_norm, style="soft", smooth=True)],
                weight=0.8,
                title="gradient norm",
            )
        )
        caption += f" The gradient's norm had the median {number(median(y_norm), 3)}"
        caption += f" and was {number(max(_known(y_norm)), 3)} at most."
    return _figure(history, "Learning rate", strips, caption, [])


def _throughput_figure(history: History) -> Record | None:
    key = (
        "tokens_per_second"
        if any(finite(line.get("tokens_per_second")) for line in history.steps)
        else "samples_per_second"
    )
    noun = "tokens" if key == "tokens_per_second" else history.nouns
    x, y = _series(history.steps, lambda line: line.get(key))
    if not _known(y):
        return None
    strips = [Strip(lines=[Line(name=noun, x=x, y=y, style="soft", smooth=True)], log=False, floor=0.0, weight=1.4)]
    caption = f"Training went through {rate(median(y), noun)} (median)."
    x_wait, y_wait = _series(history.steps, lambda line: line.get("waiting"))
    if _known(y_wait):
        mean = sum(_known(y_wait)) / len(_known(y_wait))
        caption += f" It stood waiting for data {percent(mean)} of the time."
        if mean > 0.25:
            caption += " Reading the data is what holds it back."
        line = Line(name="waiting", x=x_wait, y=y_wait)
        strips.append(
            Strip(lines=[line], is_share=True, log=False, floor=0.0, ceiling=0.05, weight=0.8, title="waiting for data")
        )
    return _figure(history, f"{noun.capitalize()} per second", strips, caption, [])


def _flow_figure(history: History) -> Record | None:
    """Show how far back in a window a recurrent net's gradients reach."""
    layers = [[finite(norm) for norm in as_list(layer)] for layer in as_list(history.end.get("gradient_flow"))]
    if not layers or len(layers[-1]) < 2 or any(norm is None or norm <= 0 for layer in layers for norm in layer):
        return None
    last = [float(norm or 0.0) for norm in layers[-1]]
    half = next(back for back, norm in enumerate(reversed(last)) if norm <= 0.5 * last[-1] or back == len(last) - 1)
    fallen = last[0] / last[-1]
    caption = (
        "How strongly the loss at a window's last token depends on the hidden state at each step before it. "
        f"Seen from the end, the last layer's gradient has halved after {counted(half, 'step')}; at the window's first "
        f"step it is {number(fallen, 2)} times what it is at the last. What happened where it is near zero cannot be "
        "learned."
    )
    first = [float(norm or 0.0) for norm in layers[0]]
    x = [float(step) for step in range(1, len(last) + 1)]
    lines = [Line(name="first layer", x=x, y=first, style="soft")] if len(layers) > 1 else []
    strip = Strip(lines=[*lines, Line(name="last layer", x=x, y=last)], log=True)
    legend = [*([("soft", "first layer")] if len(layers) > 1 else []), ("accent", "last layer")]
    svg = pictures.chart([strip], name="chart-flow", label=caption, marks=Marks(), last=x[-1])
    return {"title": "Flow of gradients through time", "svg": svg, "caption": caption, "legend": legend}
