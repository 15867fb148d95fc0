"""Numbers and metrics as people read them. What is missing is a dash, never "None" or "nan"."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

DASH = "–"
THIN = "\u202f"
"""A narrow space that does not break, before units."""


def finite(value: Any) -> float | None:
    """Return a number as a float; None for what is missing, not a number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: Any, digits: int = 4) -> str:
    """Return a number with that many significant digits: 12,345; 0.0507; 3.2 × 10⁻⁶."""
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    known = finite(value)
    if known is None:
        return DASH
    if known == 0:
        return "0"
    size = abs(known)
    if size < 1e-4 or size >= 1e15:
        mantissa, exponent = f"{size:.{digits - 1}e}".split("e")
        power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"10{power}" if mantissa == "1" else f"{mantissa} × 10{power}"
    else:
        places = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{size:,.{places}f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
    return ("−" if known < 0 else "") + text


def area(value: Any, digits: int = 3) -> str:
    """Return an area under the ROC curve, with more digits where it would else read as 1 and is not."""
    known = finite(value)
    while known is not None and known < 1 and digits < 12 and number(known, digits) == "1":
        digits += 1
    return number(value, digits)


def short(value: float) -> str:
    """Return a number for an axis: 12.5k, 3M, 0.05."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return number(value / (1e3 if unit == "k" else limit), 3) + unit
    return number(value, 4)


def count(value: Any) -> str:
    """Return a whole number: 60,000."""
    known = finite(value)
    return DASH if known is None else f"{round(known):,}".replace("-", "−")


def counted(value: Any, noun: str, plural: str = "") -> str:
    """Return a number and its noun: 1 step, 3,750 steps."""
    return f"{count(value)} {noun if finite(value) == 1 else plural or noun + 's'}"


def millions(value: Any) -> str:
    """Return a large count in words, with the exact one where that says more: 11.17 million."""
    known = finite(value)
    if known is None or known < 1e6:
        return count(value)
    for limit, word in ((1e9, "billion"), (1e6, "million")):
        if known >= limit:
            return f"{number(known / limit)} {word}"
    return count(value)


def percent(share: Any, samples: int | None = None, places: int | None = None) -> str:
    """Return a share of 1 as a percentage, with no more places than that many samples can tell apart."""
    known = finite(share)
    if known is None:
        return DASH
    if places is None:
        places = 2 if (samples or 0) >= 5000 else 1
    return f"{known * 100:.{places}f}".replace("-", "−") + f"{THIN}%"


def duration(seconds: Any) -> str:
    """Return a time: 840 ms, 12.3 s, 3 min 04 s, 2 h 05 min, 1 d 04 h."""
    known = finite(seconds)
    if known is None or known < 0:
        return DASH
    if known < 1:
        return f"{known * 1000:.0f}{THIN}ms"
    if known < 60:
        return f"{known:.1f}{THIN}s"
    whole = round(known)
    for size, big, small, unit in ((60, "min", "s", 1), (3600, "h", "min", 60), (86400, "d", "h", 3600)):
        if whole < size * (60 if size < 3600 else 24) or size == 86400:
            return f"{whole // size}{THIN}{big} {whole % size // unit:02d}{THIN}{small}"
    return DASH


def rate(value: Any, noun: str) -> str:
    """Return a throughput: 12,300 samples a second."""
    return DASH if finite(value) is None else f"{number(value, 3)} {noun} a second"


def median(values: Iterable[Any]) -> float:
    """Return the middle of the values that are finite; NaN where there is none."""
    known = sorted(value for value in map(finite, values) if value is not None)
    return known[len(known) // 2] if known else math.nan


def listed(items: list[str], last: str = "and") -> str:
    """Return "a", "a and b", or "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def wilson(hits: float, samples: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % interval of a share from ``hits`` of ``samples`` (Wilson 1927, JASA 22)."""
    share = hits / samples
    middle = share + z * z / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def interval(edges: tuple[float, float], samples: int | None = None) -> str:
    """Return the edges of an interval of shares: 93.6 to 97.7 %."""
    return f"{percent(edges[0], samples)[:-2]} to {percent(edges[1], samples)}"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is called and read."""

    label: str
    is_share: bool = False
    """Shown as a percentage."""
    higher_is_better: bool = True
    is_area: bool = False
    """Shown as 1 only where it is that."""
    says: str = ""
    """What it means, for someone who does not know it."""

    def show(self, value: Any, samples: int | None = None) -> str:
        """Return a value of this metric."""
        return percent(value, samples) if self.is_share else area(value, 4) if self.is_area else number(value)


_METRICS = {
    "accuracy": Metric(
        label="accuracy", is_share=True, says="share of samples whose most likely class is the true one"
    ),
    "precision": Metric(
        label="precision", is_share=True, says="share of the times a class was named that were right, mean over classes"
    ),
    "recall": Metric(
        label="recall", is_share=True, says="share of a class's samples that were recognised, mean over classes"
    ),
    "f1": Metric(label="F1", is_share=True, says="harmonic mean of precision and recall, mean over classes"),
    "span_f1": Metric(
        label="F1 of spans",
        is_share=True,
        says="harmonic mean of precision and recall; a span is right if both its ends and its type are",
    ),
    "span_precision": Metric(label="precision of spans", is_share=True, says="share of what was found that is right"),
    "span_recall": Metric(label="recall of spans", is_share=True, says="share of what is there that was found"),
    "answer_f1": Metric(
        label="F1 of answers", is_share=True, says="how much answer and truth share, mean over questions"
    ),
    "exact_match": Metric(label="exact match", is_share=True, says="share of questions answered to the word"),
    "answer_f1_answerable": Metric(
        label="F1 where there is an answer", is_share=True, says="likewise, of questions that the text answers"
    ),
    "no_answer_accuracy": Metric(
        label="found unanswerable", is_share=True, says="share of the other questions that were known as such"
    ),
    "auroc": Metric(
        label="AUROC",
        is_area=True,
        says="share of pairs, one of the class and one not, in which the right one is ranked higher",
    ),
    "ece": Metric(
        label="calibration error",
        is_share=True,
        higher_is_better=False,
        says="mean distance between how sure the model was and how often it was right (ECE, 15 bins)",
    ),
    "sensitivity": Metric(
        label="sensitivity",
        is_share=True,
        says="share of the class looked for that is found, at the threshold that validation data chose",
    ),
    "specificity": Metric(
        label="specificity", is_share=True, says="share of the others that is left alone, at that same threshold"
    ),
    "sensitivity_at_specificity": Metric(
        label="sensitivity at the specificity asked for",
        is_share=True,
        says="read from this split's own ROC curve: what its best threshold would give, which nobody knows beforehand",
    ),
    "dice": Metric(label="Dice", says="twice what answer and truth share, over what both cover; 1 is perfect"),
    "mean_iou": Metric(label="mean IoU", says="what answer and truth share, over what either covers, over classes"),
    "psnr": Metric(label="PSNR", says="decibels between a picture and its error; 6 more halve the error"),
    "noisy_psnr": Metric(label="PSNR without the model", says="of the noisy pictures as they came"),
    "ssim": Metric(label="SSIM", says="how alike the structures of two pictures are; 1 is equal"),
    "loss": Metric(label="loss", higher_is_better=False, says="what training makes small; lower is better"),
    "perplexity": Metric(
        label="perplexity",
        higher_is_better=False,
        says="the number of equally likely tokens that would leave as much doubt about the next one",
    ),
    "bits_per_token": Metric(label="bits per token", higher_is_better=False, says="the loss, in bits"),
    "bits_per_character": Metric(
        label="bits per character",
        higher_is_better=False,
        says="the loss, in bits for each character of the text, which other tokens would not change",
    ),
    "bleu": Metric(label="BLEU", says="runs of up to four words that a reference has too; of 100, by sacrebleu"),
    "bleu_lowercase": Metric(label="BLEU, lower-cased", says="the same, capitals not told apart"),
    "chrf": Metric(label="chrF", says="F-measure of runs of up to six characters; of 100, by sacrebleu"),
    "rouge_1": Metric(label="ROUGE-1", says="F-measure of words against the best reference; of 100"),
    "rouge_2": Metric(label="ROUGE-2", says="the same of pairs of words"),
    "rouge_l": Metric(label="ROUGE-L", says="the same of the longest sequence of words that both have"),
    "margin": Metric(label="margin of the reward", says="how far the reward of what was chosen lies above the other's"),
    "retrieval_accuracy": Metric(
        label="partners found", is_share=True, says="how often the nearest text of the other side is the partner"
    ),
    "retrieval_back_accuracy": Metric(label="partners found, back", is_share=True, says="the same from the other side"),
    "mrr": Metric(label="mean reciprocal rank", says="1 / the partner's place among all texts by nearness, on average"),
    "mrr_back": Metric(label="mean reciprocal rank, back", says="the same from the other side"),
    "spearman": Metric(label="rank correlation", says="how well nearness goes with the scores; 1 is perfect"),
    "neighbour_accuracy": Metric(
        label="nearest of its class", is_share=True, says="how often the nearest other text is of the same class"
    ),
    "alignment": Metric(label="alignment", higher_is_better=False, says="mean squared distance of partners"),
    "uniformity": Metric(label="uniformity", higher_is_better=False, says="how evenly all are spread; lower is better"),
    "rmse": Metric(label="RMSE", higher_is_better=False, says="root of the mean squared error, in the target's unit"),
    "mae": Metric(label="mean absolute error", higher_is_better=False, says="in the target's unit"),
    "r2": Metric(label="R²", says="1 is perfect, 0 is no better than always saying the mean"),
    "discriminator_accuracy": Metric(
        label="discriminator accuracy",
        is_share=True,
        higher_is_better=False,
        says="how often it tells made from real; half is a generator that it cannot catch",
    ),
    "discriminator_loss": Metric(label="discriminator loss", says="what the discriminator makes small"),
    "belief_in_real": Metric(label="belief in real", is_share=True, says="how real it takes real samples to be"),
    "belief_in_fake": Metric(label="belief in made", is_share=True, says="how real it takes made samples to be"),
}
_LOWER_IS_BETTER = ("loss", "error", "perplexity", "distance", "rmse", "mae", "mse")


def metric(name: str) -> Metric:
    """Return how a metric is read; one that is not known is shown under its own name."""
    if name in _METRICS:
        return _METRICS[name]
    label = name.replace("_", " ")
    if name.startswith("top") and any(character.isdigit() for character in name):
        digits = "".join(character for character in name if character.isdigit())
        return Metric(
            label=f"top-{digits} accuracy",
            is_share=True,
            says=f"share of samples whose true class is among the {digits} likeliest",
        )
    return Metric(
        label=label,
        is_share=name.endswith("accuracy"),
        higher_is_better=not any(word in name for word in _LOWER_IS_BETTER),
    )
