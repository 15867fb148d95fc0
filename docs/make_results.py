"""Write the tables of the README and of the pages from what was recorded: `python docs/make_results.py`.

A test holds them equal.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import shlex
import statistics
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strata.kernels import widest
from strata.models import MODELS, config_class, family_of
from strata.recipes import RECIPES, recipe, result_file

ROOT = Path(__file__).resolve().parents[1]
LAYOUTS = {"HUGGINGFACE": "Hugging Face", "TORCHVISION": "torchvision"}
FIELDS = {name: {field.name for field in dataclasses.fields(config_class(name))} for name in MODELS}
PICTURES = [name for name, fields in FIELDS.items() if "image_size" in fields and "latent_size" not in fields]
"""Families that read pictures."""
TEXTS = [name for name, fields in FIELDS.items() if "vocab_size" in fields]
"""Families that read text."""
SHARES = ("accuracy", "in_scope_accuracy", "out_of_scope_recall", "f1", "span_f1", "answer_f1", "exact_match")
"""Metrics that are shown in percent."""
POINTS = ("bleu", "bleu_lowercase", "chrf", "rouge_1", "rouge_2", "rouge_l")
"""Metrics that are in points of a hundred by their own definition."""


NOT_SETTINGS = (
    *("data", "model", "seeds", "train.epochs", "train.steps"),
    *("train.evaluate_every", "train.log_every", "train.save_every"),
)
"""Words of a command that a table has a column for, or that change no result."""


def number(value: float | None, metric: str) -> str:
    """Return a metric as the tables show it."""
    if value is None:
        return "—"
    if metric in POINTS:
        return f"{value:.2f}"
    return f"{100 * value:.2f} %" if metric in SHARES else f"{value:.4f}"


def spread_of(found: dict[str, Any]) -> str:
    """Return the deviation over seeds as the tables show it; one run has none."""
    if len(found["seeds"]) == 1:
        return ""
    deviation, metric = found["deviation"], found["metric"]
    if metric in POINTS:
        return f" ± {deviation:.2f}"
    return f" ± {100 * deviation:.2f}" if metric in SHARES else f" ± {deviation:.4f}"


class Notes:
    """What a table's rows have in common, told once under it: each text gets a number, or a letter."""

    def __init__(self, title: str, marks: Sequence[str]) -> None:
        self.title, self.marks = title, marks
        self.texts: dict[str, str] = {}

    def mark(self, text: str) -> str:
        """Return the mark of a text; nothing for an empty one."""
        return self.texts.setdefault(text, self.marks[len(self.texts)]) if text else ""

    def told(self) -> str:
        """Return the line under the table."""
        return f"{self.title}: " + "; ".join(f"[{mark}] {text}" for text, mark in self.texts.items()) + "."


def sources_and_machines() -> tuple[Notes, Notes]:
    """Return empty notes on published numbers and on machines."""
    return Notes("Published", [str(n) for n in range(1, 100)]), Notes("Machines", string.ascii_lowercase)


def words_of(found: dict[str, Any]) -> dict[str, str]:
    """Return the settings in a result's command."""
    return dict(word.split("=", 1) for word in shlex.split(found["command"]) if "=" in word)


def published_cell(found: dict[str, Any], sources: Notes) -> str:
    """Return a published number with the mark of its source; of other data only if it is said."""
    value, source, words = found["published"], found["source"], words_of(found)
    of_own_data = recipe(found["recipe"], {"model": words["model"]} if "model" in words else {})
    if value is None and of_own_data.reference is not None and of_own_data.reference.published is not None:
        value, source = of_own_data.reference.published, of_own_data.reference.source
        if "data" in words:
            source += f"; of {of_own_data.data.source}, and ours is of {Path(words['data']).name}"
    return "—" if value is None else f"{number(value, found['metric'])} [{sources.mark(source)}]"


def time_cell(found: dict[str, Any], machines: Notes) -> str:
    """Return the median of the seconds of training, with the mark of the machine."""
    seconds = statistics.median(found["training_seconds"])
    time = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{time} [{machines.mark(', '.join(filter(None, (found['machine'], found['note']))))}]"


def results() -> str:
    """Return the table of recipes that have a recorded result."""
    sources, machines = sources_and_machines()
    rows = [
        "| recipe | metric | published | ours, mean ± deviation | seeds | training, each |",
        "|---|---|---|---|---|---|",
    ]
    for name in RECIPES:
        if not result_file(name).is_file():
            continue
        found: dict[str, Any] = json.loads(result_file(name).read_text(encoding="utf-8"))
        metric = found["metric"]
        rows.append(
            f"| `{name}` | {found['split']} {metric} | {published_cell(found, sources)} "
            f"| {number(found['mean'], metric)}{spread_of(found)} "
            f"| {len(found['seeds'])} | {time_cell(found, machines)} |"
        )
    return "\n".join([*rows, "", sources.told(), "", machines.told()])


def architectures(families: Sequence[str]) -> str:
    """Return the table of some families: presets, sizes, and whose weights they read and write."""
    import torch

    from strata import models

    rows = ["| family | presets, with millions of parameters | paper | weights of |", "|---|---|---|---|"]
    for family in families:
        sizes = []
        for name in models.presets_of(family) or [family]:
            with torch.device("meta"):
                count = sum(p.numel() for p in models.build(models.preset(name)).parameters())
            sizes.append(f"`{name}` {count / 1e6:,.0f}" if count >= 1e9 else f"`{name}` {count / 1e6:.3g}")
        rows.append(f"| `{family}` | {', '.join(sizes)} | {models.MODELS.summary(family)} | {layouts(family)} |")
    return "\n".join(rows)


def layouts(family: str) -> str:
    """Return which libraries' weights a family reads and writes."""
    try:
        room = importlib.import_module(f"strata.weights.{family}")
    except ModuleNotFoundError:
        return "—"
    has = [name for attribute, name in LAYOUTS.items() if hasattr(room, attribute)]
    return ", ".join(has)


def reached(families: Sequence[str]) -> str:
    """Return the table of every recorded result of some families."""
    sources, machines = sources_and_machines()
    rows = [
        "| recipe | model | published | ours, mean ± deviation | seeds | passes | training, each | changed settings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted((ROOT / "src" / "strata" / "recipes" / "results").glob("*.json")):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        words = words_of(found)
        named = recipe(found["recipe"], {key: value for key, value in words.items() if key != "seeds"})
        if family_of(named.model) not in families:
            continue
        metric, own = found["metric"], f"`{family_of(named.model)}`, the recipe's own"
        model = f"`{words['model']}`" if "model" in words else own
        changed = " ".join(f"`{key}={value}`" for key, value in words.items() if key not in NOT_SETTINGS)
        passes = f"{named.train.epochs:g}" if named.train.epochs is not None else f"{named.train.steps:,} steps"
        rows.append(
            f"| `{found['recipe']}` on {Path(named.data.source).name} | {model} | {published_cell(found, sources)} "
            f"| {metric} {number(found['mean'], metric)}{spread_of(found)}{others(found)} "
            f"| {len(found['seeds'])} | {passes} | {time_cell(found, machines)} | {changed} |"
        )
    return "\n".join([*rows, "", sources.told(), "", machines.told()])


def others(found: dict[str, Any]) -> str:
    """Return the further metrics that a reader of the published number looks for, over the same seeds."""
    wanted = ("out_of_scope_recall", "bleu", "chrf", "rouge_2", "rouge_l", "exact_match", "bits_per_character")
    told = {name: found.get("other_metrics", {}).get(name) for name in wanted if name != found["metric"]}
    means = {name: statistics.fmean(values) for name, values in told.items() if values}
    return "".join(f", {name} {number(mean, name)}" for name, mean in means.items())


def newest_logs() -> dict[str, Path]:
    """Return the newest log of each benchmark, by its name."""
    paths = sorted((ROOT / "benchmarks" / "logs").glob("*.json"), key=lambda path: path.stem)  # NAME-2 after NAME
    return {json.loads(path.read_text(encoding="utf-8"))["benchmark"]: path for path in paths}


def transfer() -> str:
    """Return the tables of what weights trained before are worth, one for each pair of data sets."""
    paths = [path for name, path in newest_logs().items() if name.startswith("transfer")]
    return "\n\n".join(transfer_from(json.loads(path.read_text(encoding="utf-8"))["details"]) for path in paths)


def transfer_from(found: dict[str, Any]) -> str:
    """Return one of them."""
    rows = [
        f"| {found['training pictures']:,} pictures of {found['data']}, weights of {found['origin']}, "
        f"{len(found['seeds'])} seeds | test accuracy, mean ± deviation | AUROC | seconds of training, median |",
        "|---|---|---|---|",
    ]
    for way, told in found["test metrics"].items():
        accuracy, auroc = ([each[name] for each in told] for name in ("accuracy", "auroc"))
        rows.append(
            f"| {way} | {100 * statistics.fmean(accuracy):.2f} % ± {100 * statistics.stdev(accuracy):.2f} "
            f"| {statistics.fmean(auroc):.4f} | {statistics.median(found['seconds'][way]):.1f} |"
        )
    return "\n".join(rows)


def speed() -> str:
    """Return the table of the newest log of each benchmark."""
    rows = [
        "| benchmark | ours | times as fast: ratio of medians (range over rounds) | processor | log |",
        "|---|---|---|---|---|",
    ]
    for name, path in newest_logs().items():
        if name.startswith("transfer"):  # accuracies: on the page of pictures
            continue
        log = json.loads(path.read_text(encoding="utf-8"))
        ours: dict[str, str] = {}
        ratios = []
        for ratio in log["ratios"]:
            low, high = min(ratio["per_round"]), max(ratio["per_round"])
            middle = statistics.median(told[ratio["ours"]] for told in log["rounds"])
            ours[ratio["ours"]] = f"{middle:,.4g} ({ratio['ours'].removeprefix('strata, ')})"
            least = "at least " if ratio["at_least"] else ""
            scatter = f" ({low:.2f} to {high:.2f})" if len(ratio["per_round"]) > 1 else " (one round)"
            ratios.append(f"{ratio['what']} **{least}{ratio['of_medians']:.2f}**{scatter}")
        title = name.replace("_", " ").replace("-", ", ")
        rows.append(
            f"| {title} | {', '.join(ours.values())} {log['unit']} | {'; '.join(ratios)} | {processor(log['machine'])} "
            f"| [{path.stem.removeprefix(name + '-')}](benchmarks/logs/{path.name}) |"
        )
    return "\n".join(rows)


def processor(machine: dict[str, Any]) -> str:
    """Return a processor's maker, and the widest products that it has."""
    maker = next((name for name in ("AMD", "Intel") if name in machine["cpu"]), machine["cpu"])
    return ", ".join(filter(None, (maker, widest(machine["features"]))))


def between(text: str, mark: str, content: str) -> str:
    """Return the text with what stands between two marks replaced."""
    head, rest = text.split(f"<!-- {mark} -->", 1)
    tail = rest.split(f"<!-- end of {mark} -->", 1)[1]
    return f"{head}<!-- {mark} -->\n{content}\n<!-- end of {mark} -->{tail}"


def page() -> str:
    """Return the README as it should be."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return between(between(text, "results", results()), "speed", speed())


def vision_page() -> str:
    """Return docs/vision.md as it should be."""
    text = (ROOT / "docs" / "vision.md").read_text(encoding="utf-8")
    tables = {"architectures": architectures(PICTURES), "reached": reached(PICTURES), "transfer": transfer()}
    for mark, made in tables.items():
        text = between(text, mark, made)
    return text


def language_page() -> str:
    """Return docs/language.md as it should be."""
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    for mark, made in (("architectures", architectures(TEXTS)), ("reached", reached(TEXTS))):
        text = between(text, mark, made)
    return text


if __name__ == "__main__":
    (ROOT / "README.md").write_text(page(), encoding="utf-8")
    (ROOT / "docs" / "vision.md").write_text(vision_page(), encoding="utf-8")
    (ROOT / "docs" / "language.md").write_text(language_page(), encoding="utf-8")
