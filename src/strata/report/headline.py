"""The top of a report: what was trained on what, how well it does, and what a careful reader would ask about that."""

from __future__ import annotations

import json

from strata.config import flat
from strata.errors import ConfigError
from strata.recipes import result_file
from strata.report.history import History, Record, as_dict, as_list
from strata.report.words import (
    area,
    count,
    counted,
    finite,
    interval,
    listed,
    metric,
    millions,
    number,
    percent,
    wilson,
)
from strata.train.recipe import FROM_DATA, Recipe

COMPARED = ("model", "data", "task", "train")
NOT_COMPARED = frozenset(("data.source", "data.labels", "train.seed", "train.device"))
"""Where data lie and what classes are called changes no result; a seed and a machine are what results are spread by."""

FILLED_IN = frozenset(("task.may_lack", "task.target_mean", "task.target_std"))
"""Settings of tasks that follow from the data and have a default that says something."""


def headline(history: History) -> Record:
    results, main = history.results, history.main_metric
    figures: list[Record] = []
    if main is not None:
        splits = [split for split in ("test", "validation") if main in results.get(split, {})]
        splits += [split for split in results if split not in splits and main in results[split]]
        figures = [_figure_of(history, split, main) for split in splits]
        published = _published(history, results, main)
        figures += [published] if published else []
    else:
        name = "discriminator_accuracy"
        figures = [
            _figure_of(history, split, name) for split in ("test", "validation") if name in results.get(split, {})
        ]
    return {
        "name": history.folder.resolve().name,
        "recipe": history.recipe.get("recipe", ""),
        "model": history.model_name,
        "data": history.data_name,
        "sentence": _sentence(history, results, main),
        "figures": figures,
        "others": _other_metrics(history, results, main or "discriminator_accuracy"),
        "honesty": _honesty(history, results, main) if figures else "",
        "status": _status(history),
    }


def _figure_of(history: History, split: str, name: str) -> Record:
    """Return one of the large figures: a value, what it is, and how sure one can be."""
    read, value, n = metric(name), finite(history.results[split].get(name)), history.splits.get(split)
    says = ""
    if _is_counted_accuracy(history, name) and value is not None and n:
        low, high = wilson(value * n, n)
        says = f"{count(value * n)} of {count(n)} right; 95 % interval {interval((low, high), n)}"
    elif name == "auroc" and n and (edges := _area_interval(history, split)):
        says = f"on {history.counted(n)}; 95 % interval {area(edges[0])} to {area(edges[1])} (DeLong)"
    elif n:
        says = f"on {history.counted(n)}"
        says = f"{read.says}; {says}" if name in ("rmse", "mae") else says
    if name == "discriminator_accuracy":
        says = "50 % means that it cannot tell made from real"
    unit = " in nats per token" if history.task_kind == "next_token" and name == "loss" else ""
    return {
        "value": read.show(value, n),
        "label": f"{split} {read.label}{unit}" + ("" if history.finished else ", so far"),
        "says": says,
    }


def _area_interval(history: History, split: str) -> list[float]:
    """Return the interval of a split's AUROC, which a run holds of its last split only."""
    is_last = split == ("test" if "test" in history.results else "validation")
    return as_list(as_dict(history.end.get("detection")).get("interval")) if is_last else []


def _is_counted_accuracy(history: History, name: str) -> bool:
    """Say whether a metric is a share of independent samples, so that a binomial interval is honest."""
    return history.task_kind == "classify" and (name == "accuracy" or name.startswith("top"))


def _published(history: History, results: dict[str, Record], main: str) -> Record | None:
    reference = history.reference
    value = finite(reference.get("published"))
    if value is None:
        return None
    name, split = str(reference.get("metric", main)), str(reference.get("split", "test"))
    read = metric(name)
    if read.is_share and value > 1.5:  # written as a percentage
        value /= 100
    says = [str(reference.get("source") or "")]
    ours = finite(results.get(split, {}).get(name))
    if ours is not None:
        gap = ours - value
        better = (gap > 0) == read.higher_is_better
        size = f"{abs(gap) * 100:.1f} points" if read.is_share else number(abs(gap), 2)
        is_even = size.startswith("0.0 ") or size == "0"
        says.append("this run equals it" if is_even else f"this run is {size} {'better' if better else 'worse'}")
    return {
        "value": read.show(value),
        "label": f"published {split} {read.label}",
        "says": "; ".join(part for part in says if part),
    }


def _other_metrics(history: History, results: dict[str, Record], main: str) -> Record | None:
    """Return every metric but the main one as a table: a row each, a column for each split."""
    splits = sorted(results, key=lambda split: (split != "test", split != "validation"))
    names = list(dict.fromkeys(name for split in splits for name in results[split] if name != main))
    if not names:
        return None
    rows = [
        {
            "label": metric(name).label,
            "says": _says_of(history, name),
            "values": [metric(name).show(results[split].get(name)) for split in splits],
        }
        for name in names
    ]
    return {"splits": splits, "rows": rows}


def _says_of(history: History, name: str) -> str:
    """Return what a metric means for this run's task."""
    if name == "accuracy":
        shares = {
            "next_token": f"share of {history.token_word}s whose likeliest guess is right",
            "translate": "share of tokens of the wanted text whose likeliest guess is right, the ones before it given",
            "masked_token": "share of hidden tokens whose likeliest guess is right",
            "span_corruption": "share of tokens of the wanted text whose likeliest guess is right",
            "tag": "share of words whose likeliest tag is the true one",
            "image_to_image": "share of pixels whose likeliest class is the true one",
            "prefer": "share of pairs in which the answer that was chosen gets the higher reward",
        }
        return shares.get(history.task_kind, metric(name).says)
    if name == "loss" and "temperature" in _fitted(history):
        return f"{metric(name).says}; with the temperature that was fitted after training, which the curve is without"
    return metric(name).says


def _sentence(history: History, results: dict[str, Record], main: str | None) -> str:
    model, data, kind = history.model, history.data, history.task_kind
    splits = history.splits
    labels, train = as_list(data.get("labels")), splits.get("train")
    target = history.data_config.get("target") or history.preprocess.get("target")
    learned = {
        "classify": f"to tell {counted(len(labels), 'class', 'classes')} apart" if labels else "to classify",
        "regress": f"to predict “{target}”" if target else "to predict a number",
        "next_token": f"to continue text, {history.token_word} by {history.token_word}",
        "image_to_image": "to make pictures of pictures",
        "translate": "to turn texts into others",
        "tag": "to find spans in texts" if history.main_metric == "span_f1" else "to tag each word of a text",
        "extract_answer": "to answer questions by a part of a text",
        "adversarial": f"to make pictures like those of {history.data_name}",
    }.get(kind, "its task")
    size = f", a network of {millions(model.get('parameters'))} parameters," if finite(model.get("parameters")) else ""
    source = f" from {history.counted(train)}" if train else ""
    first = f"The model {history.model_name}{size} learned{source} {learned}."
    return f"{first} {_result_sentence(history, results, main)}".strip()


def _result_sentence(history: History, results: dict[str, Record], main: str | None) -> str:
    split = next((name for name in ("test", "validation", *results) if name in results), None)
    if split is None:
        held_out = [name for name in history.splits if name != "train"]
        return (
            ""
            if held_out or not history.splits
            else (
                "Nothing was held out (data.validation and data.test are 0), so how well it does on other "
                f"{history.nouns} was not measured."
            )
        )
    n, found, now = history.splits.get(split), results[split], "" if history.finished else " so far"
    of = f"the {history.counted(n)} of the {split} split" if n else f"the {split} split"
    value = finite(found.get(main)) if main else None
    kind, is_new = history.task_kind, history.is_new(split)
    untaught = ", none of which it was trained on," * is_new
    if kind == "classify" and main == "accuracy" and value is not None:
        return f"Of {of}{untaught or ','} it names {percent(value, n)} correctly{now}."
    if kind == "regress" and main == "rmse" and value is not None:
        r2 = finite(found.get("r2"))
        explained = (
            "" if r2 is None else f", which leaves {percent(max(0.0, 1 - r2), places=0)} of their variance unexplained"
        )
        return f"On {of}{untaught or ','} it is typically off by {number(value)}{now}{explained}."
    if main == "auroc" and value is not None and (positive := as_dict(history.end.get("detection")).get("positive")):
        return (
            f"Of any two {history.nouns} of the {split} split, one “{positive}” and one not, it ranks the right one "
            f"higher {percent(value)} of the time{'; it was trained on none of them' * is_new}."
        )
    if kind == "next_token" and finite(found.get("perplexity")) is not None:
        return (
            f"On text of the {split} split,{' which it was not trained on,' * is_new} it is{now} as unsure of the next "
            f"{history.token_word} as if {number(found['perplexity'], 3)} were equally likely."
        )
    if kind == "adversarial" and finite(found.get("discriminator_accuracy")) is not None:
        share = percent(found["discriminator_accuracy"], places=0)
        return (
            f"Its opponent, the discriminator, {'told' if history.finished else 'so far tells'} made from real "
            f"pictures rightly {share} of the time; 50 % would be guessing."
        )
    if main and value is not None:
        return f"On {of} its {metric(main).label} is {metric(main).show(value, n)}{now}."
    return ""


def _honesty(history: History, results: dict[str, Record], main: str | None) -> str:
    """Say what a careful reader would ask about the figures."""
    says = []
    stops_early = finite(history.train.get("early_stopping")) is not None
    has_test, has_validation = "test" in results, "validation" in results
    if stops_early and has_validation:
        says.append(
            "The validation split chose when to stop and which weights to keep, so its figures are a little flattering"
            + ("; the test split chose nothing." if has_test else ", and there is no test split to check them.")
        )
    elif has_validation and not has_test and history.finished:
        chose = "" if _fitted(history) else ", which chose nothing in this run"
        says.append(f"There is no test split; the figures are of the validation split{chose}.")
    if history.averages:
        says.append(f"What is measured and kept is a moving average of the weights ({_average(history)}).")
    if history.finished and has_test and not stops_early:
        last = "The average is that at the last step" if history.averages else "The weights are those of the last step"
        says.append(f"{last}; neither validation nor test split chose {'it' if history.averages else 'them'}.")
    fitted = _fitted(history)
    if fitted and has_validation:
        says.append(
            f"The validation split chose the {fitted}, so what depends on {'them' if ' and ' in fitted else 'it'} is a "
            "little flattering there" + ("; the test split chose nothing." if has_test else ".")
        )
    n = history.splits.get("test" if has_test else "validation")
    if main and _is_counted_accuracy(history, main) and n:
        says.append(
            "The interval is Wilson's for a share of that many samples: what other samples of the same kind would "
            "give. It does not include the spread between training seeds."
        )
    reference = history.reference
    measured = finite(reference.get("measured"))
    if measured is not None:
        read = metric(str(reference.get("metric", main or "")))
        spread, seeds = finite(reference.get("spread")), finite(reference.get("seeds"))
        detail = f" ± {read.show(spread)}" if spread is not None else ""
        detail += f" over {counted(seeds, 'seed')}" if seeds else ""
        note = f" ({str(reference['note']).rstrip('.')})" if reference.get("note") else ""
        recipe = f"recipe {history.recipe.get('recipe')}" if (others := _other_settings(history)) else "this recipe"
        changed = f" with other settings ({others})" if others else ""
        says.append(f"Measured earlier with {recipe}{changed}: {read.show(measured)}{detail}{note}.")
    return " ".join(says)


def _other_settings(history: History) -> str:
    """Return the names of settings in which this run differs from the recorded one; a setting that did not exist then
    had what is the default now."""
    path = result_file(str(history.recipe.get("recipe", "")))
    if not path.is_file():
        return ""
    recorded = as_dict(json.loads(path.read_text(encoding="utf-8")).get("resolved"))
    try:
        then, now = (flat(Recipe.from_json(values).to_json()) for values in (recorded, history.recipe))
    except ConfigError:  # of another version, whose settings cannot be compared
        return ""
    names = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    names = [name for name in names if name.split(".")[0] in COMPARED and name not in NOT_COMPARED]
    names = [name for name in names if not _is_from_data(name, then.get(name))]
    return f"{listed(names[:4])} and {len(names) - 4} more" if len(names) > 5 else listed(names)


def _is_from_data(name: str, recorded: object) -> bool:
    """Say whether a run fills in a setting from its data, where a record holds it as it was before that."""
    is_open = recorded in (None, "", "auto", "balanced", [], ())
    return name in FROM_DATA or name in FILLED_IN or (is_open and name.startswith("task."))


def _fitted(history: History) -> str:
    """Return in words what was fitted to validation data after training."""
    temperature = finite(as_dict(history.end.get("calibration")).get("temperature"))
    threshold = finite(as_dict(history.end.get("detection")).get("threshold"))
    of_answers = history.task_kind == "extract_answer" and bool(history.task.get("may_lack")) and bool(history.end)
    has_threshold = threshold is not None or of_answers
    names = ["threshold"] * has_threshold + ["temperature"] * (temperature not in (None, 1.0))
    return listed(names)


def _average(history: History) -> str:
    return f"train.ema={number(history.train['ema'])}"


def _status(history: History) -> str:
    if history.finished is not None:
        return ""
    total, failed = history.total_steps, history.failed
    step = failed["step"] if failed else history.last_step
    where = (
        f"step {count(step)} of {count(total)} ({percent(step / total, places=0)})" if total else f"step {count(step)}"
    )
    if failed:
        return (
            f"This run failed at {where} and did not finish: {failed.get('message', '')} What follows is from before."
        )
    return f"This run had not finished when this page was written: it was at {where}." + (
        " The figures below are those so far." if history.results else ""
    )
