"""Run folders as training leaves them, made up but true in form: what the tests of the report read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DECISIONS = [
    {"name": "device", "value": "cpu", "reason": "no GPU found; AMD EPYC 9V74"},
    {"name": "precision", "value": "bf16", "reason": "amx_bf16 is among the processor's flags"},
    {"name": "memory format", "value": "channels last", "reason": "convolutions read neighbouring channels together"},
    {"name": "compile", "value": "no", "reason": "on a CPU it gains 5 to 10 % after seconds of compiling"},
    {"name": "threads", "value": "2", "reason": "2 cores are visible"},
]
VERSIONS = {"strata": "0.1.0", "python": "3.11.9", "torch": "2.13.0+cpu", "numpy": "2.4.6", "platform": "Linux-x86_64"}
TRAIN = {
    "epochs": 12.0,
    "steps": None,
    "batch_size": 64,
    "accumulate": 1,
    "optimizer": "adamw",
    "learning_rate": 0.002,
    "betas": [0.9, 0.999],
    "weight_decay": 0.01,
    "schedule": "one_cycle",
    "early_stopping": None,
    "ema": None,
    "seed": 0,
    "device": "auto",
    "precision": "auto",
}
AUGMENT = {"flip": 0.0, "rotate": 10.0, "crop": 0, "resized_crop": None, "mixup": 0.0, "cutmix": 0.0}


def write(folder: Path, recipe: dict[str, Any], lines: list[dict[str, Any]]) -> Path:
    """Write a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2))
    if any(line["event"] == "finished" for line in lines):
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "model.safetensors").write_bytes(b"\0" * 64)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return folder


def started(**changes: Any) -> dict[str, Any]:
    """Return a run's first line."""
    line = {
        "event": "started",
        "step": 0,
        "folder": "runs/digits-1",
        "time": "2025-11-21T09:12:03+00:00",
        "recipe": "digits",
        "task": "classify",
        "decisions": DECISIONS,
        "versions": VERSIONS,
        "command": "strata train digits",
        "total_steps": 200,
        "steps_per_epoch": 20.0,
        "batch_size": 64,
    }
    return line | changes


def stepped(step: int, total: int, per_epoch: float, losses: dict[str, float], **changes: Any) -> dict[str, Any]:
    """Return one logged step."""
    line = {
        "event": "step",
        "step": step,
        "epoch": step / per_epoch,
        "loss": sum(losses.values()),
        "losses": losses,
        "learning_rate": 0.002 * min(1.0, step / (0.1 * total)) * (0.5 + 0.5 * math.cos(math.pi * step / total)) + 1e-6,
        "samples_per_second": 11800.0 + 900 * math.sin(step / 3) - 4000 * (step <= total // 200),
        "waiting": 0.004 + 0.003 * math.cos(step / 5) ** 2,
        "seconds": step * 64 / 11800,
    }
    return line | changes


def evaluated(step: int, per_epoch: float, metrics: dict[str, float], split: str = "validation") -> dict[str, Any]:
    """Return one evaluation."""
    return {
        "event": "evaluated",
        "step": step,
        "epoch": step / per_epoch,
        "split": split,
        "metrics": metrics,
        "seconds": 0.05,
    }


def recipe(**changes: Any) -> dict[str, Any]:
    """Return what recipe.json holds."""
    values: dict[str, Any] = {
        "recipe": "digits",
        "name": "",
        "summary": "A small convolutional network on handwritten digits",
        "model": {"kind": "lenet", "in_channels": 1, "image_size": 8, "num_classes": 10, "dropout": 0.1},
        "data": {"source": "digits", "kind": None, "target": None, "tokens": None, "augment": AUGMENT},
        "task": {"kind": "classify", "label_smoothing": 0.1, "class_weights": None},
        "train": TRAIN,
        "reference": None,
    }
    return values | changes


def class_rows(labels: list[str], counts: Any) -> list[dict[str, Any]]:
    """Return what a finished run says of each class."""
    return [
        {
            "label": label,
            "support": int(counts[k].sum()),
            "precision": float(counts[k, k] / counts[:, k].sum()) if counts[:, k].sum() else None,
            "recall": float(counts[k, k] / counts[k].sum()),
            "f1": float(2 * counts[k, k] / (counts[k].sum() + counts[:, k].sum())),
        }
        for k, label in enumerate(labels)
    ]


def classifier(folder: Path, labels: list[str] | None = None, *, lines_until: int | None = None) -> Path:
    """Write a classifier of pictures with a test split, a confusion matrix and mistakes.

    Args:
        lines_until: stop at this step, as a run that is still going.
    """
    from sklearn.datasets import load_digits

    labels = labels or [str(k) for k in range(10)]
    random, n, total, per_epoch = np.random.default_rng(0), len(labels), 240, 20.0
    per_class = 36
    data = {
        "name": "digits",
        "kind": "image",
        "splits": {"train": 1149, "validation": 288, "test": per_class * n},
        "repeated": {"validation": 0, "test": 0},
        "labels": labels,
        "class_counts": [int(115 + 8 * math.sin(k)) for k in range(n)],
        "notes": [
            "No validation split is given: 20 % of the training data was held out, stratified, seed 0.",
            "2 pictures could not be read and were skipped: 3/broken.png, 7/empty.png.",
        ],
    }
    model = {
        "name": "lenet",
        "parameters": 61706,
        "layers": [
            {"name": "features", "kind": "Sequential", "parameters": 2572},
            {"name": "hidden", "kind": "Sequential", "parameters": 58284},
            {"name": "head", "kind": "Linear", "parameters": 850},
        ],
        "from_data": "in_channels=1, image_size=8, num_classes=10",
    }
    lines = [started(data=data, model=model, total_steps=total)]
    for step in range(2, total + 1, 2):
        loss = 2.3 * math.exp(-step / 30) + 0.52 + 0.05 * random.standard_normal() * math.exp(-step / 200)
        lines.append(
            stepped(
                step,
                total,
                per_epoch,
                {"train": loss},
                gradient_norm=2.5 * math.exp(-step / 90) + random.random() * 0.4,
            )
        )
        if step % 24 == 0:
            accuracy = 0.988 - 0.25 * math.exp(-step / 35) - (0.004 if step > 216 else 0)
            loss = 0.05 + 1.5 * math.exp(-step / 40) + (0.006 if step > 216 else 0)
            lines.append(evaluated(step, per_epoch, {"accuracy": accuracy, "loss": loss}))
            lines.append({"event": "saved", "step": step, "seconds": 0.02})
    if lines_until is not None:
        return write(folder, recipe(), [line for line in lines if line["step"] <= lines_until])
    counts = np.zeros((n, n), dtype=int)
    for k in range(n):
        counts[k, k] = per_class
        for _ in range(int(random.poisson(1.0 if n <= 15 else 4.0))):
            counts[k, k] -= 1
            counts[k, (k + int(random.integers(1, n))) % n] += 1
    accuracy = float(np.trace(counts) / counts.sum())
    pictures = load_digits().images
    (folder / "samples" / "mistakes").mkdir(parents=True, exist_ok=True)
    mistakes = []
    for k in range(9):
        Image.fromarray((pictures[k * 7] * 15.9).astype("uint8")).save(folder / "samples" / "mistakes" / f"{k}.png")
        mistake = {
            "true": labels[k % n],
            "predicted": labels[(k * 3 + 1) % n],
            "confidence": 0.98 - 0.05 * k,
            "sample": k * 7,
            "place": f"{labels[k % n]}/scan {k * 7}.png",
        }
        mistakes.append(mistake | {"file": f"samples/mistakes/{k}.png"})
    lines.append(evaluated(total, per_epoch, {"accuracy": accuracy, "loss": 0.061}, "test"))
    lines.append(
        {
            "event": "finished",
            "step": total,
            "metrics": {
                "validation": {"accuracy": 0.984, "loss": 0.0562},
                "test": {"accuracy": accuracy, "loss": 0.0614},
            },
            "seconds": 12.31,
            "total_seconds": 13.02,
            "samples_per_second": 11800.0,
            "steps": total,
            "device": "cpu",
            "precision": "bf16",
            "main_metric": "accuracy",
            "confusion": {"labels": labels, "counts": counts.tolist()},
            "classes": class_rows(labels, counts),
            "mistakes": mistakes,
        }
    )
    reference = {
        "metric": "accuracy",
        "split": "test",
        "published": 0.9872,
        "source": "Kaynak 1995, k-nearest neighbours",
        "measured": 0.988,
        "spread": 0.0021,
        "seeds": 5,
        "note": "measured on two cores",
    }
    return write(folder, recipe(reference=reference), lines)


def table(folder: Path) -> Path:
    """Write a regression on a table, stopped early, without a test split of its own."""
    random, total, per_epoch = np.random.default_rng(1), 400, 5.0
    data = {
        "name": "diabetes",
        "kind": "table",
        "splits": {"train": 309, "validation": 67, "test": 66},
        "labels": [],
        "class_counts": [],
        "notes": ["No split is given: 15 % each were held out for validation and test, seed 0."],
    }
    model = {
        "name": "mlp",
        "parameters": 4865,
        "layers": [
            {"name": "hidden", "kind": "Sequential", "parameters": 4800},
            {"name": "head", "kind": "Linear", "parameters": 65},
        ],
        "from_data": "in_features=10, num_classes=1",
    }
    decisions = [
        DECISIONS[0],
        {"name": "precision", "value": "fp32", "reason": "tables are small, and rounding would show"},
    ]
    lines = [
        started(
            recipe="diabetes",
            command="strata train diabetes",
            data=data,
            model=model,
            total_steps=total,
            decisions=decisions,
        )
    ]
    for step in range(2, total + 1, 2):
        lines.append(
            stepped(step, total, per_epoch, {"train": 0.8 * math.exp(-step / 80) + 0.25 + 0.03 * random.random()})
        )
        if step % 40 == 0:
            rmse = 54 + 22 * math.exp(-step / 50) + 0.004 * max(0, step - 240)
            lines.append(
                evaluated(
                    step, per_epoch, {"loss": rmse**2 / 5900, "rmse": rmse, "mae": rmse * 0.8, "r2": 1 - rmse**2 / 5900}
                )
            )
    fields = ("age", "sex", "bmi", "bp", "s1", "s2", "s3")
    mistakes = [
        {
            "row": {field: float(np.round(random.normal(), 3)) for field in fields}
            | {"age": None if k == 1 else 40 + k},
            "true": str(281.0 - 30 * k),
            "predicted": str(112.37 + 3 * k),
            "sample": k,
        }
        for k in range(5)
    ]
    lines.append(
        {
            "event": "finished",
            "step": total,
            "metrics": {
                "validation": {"loss": 0.49, "rmse": 54.1, "mae": 43.9, "r2": 0.512},
                "test": {"loss": 0.47, "rmse": 53.21, "mae": 42.7, "r2": float("nan")},
            },
            "seconds": 1.84,
            "samples_per_second": 41000.0,
            "steps": total,
            "device": "cpu",
            "precision": "fp32",
            "main_metric": "rmse",
            "mistakes": mistakes,
            "stopped_early": True,
        }
    )
    return write(
        folder,
        recipe(
            recipe="diabetes",
            summary="A multilayer perceptron on a table",
            model={
                "kind": "mlp",
                "hidden": [64, 64],
                "activation": "relu",
                "in_features": 10,
                "num_classes": 1,
                "dropout": 0.0,
            },
            data={"source": "diabetes", "target": "progression", "augment": {}},
            task={"kind": "regress", "loss_name": "mean_squared_error", "target_mean": 152.1, "target_std": 77.0},
            train=TRAIN | {"early_stopping": 3},
        ),
        lines,
    )


VERSE = """ROMEO:
What, shall I speak of that which is not so?
The night is come, and with it all my grief,
That <b>never</b> yet did sleep & never shall.

JULIET:
O, say it not! thy words are like the sea,
That breaks upon the stone, and breaks again.
"""


def gpt(folder: Path) -> Path:
    """Write a GPT run that was killed at step 1300 and resumed from step 1200."""
    random, total, per_epoch = np.random.default_rng(2), 2000, 1307.0
    data = {
        "name": "tinyshakespeare",
        "kind": "text",
        "splits": {"train": 1003854, "validation": 111540},
        "labels": [],
        "class_counts": [],
        "notes": ["The last 10 % of the text is the validation split.", "Characters are the tokens: 65 of them."],
    }
    model = {
        "name": "gpt",
        "parameters": 804096,
        "layers": [
            {"name": "token_embedding", "kind": "Embedding", "parameters": 8320},
            {"name": "position_embedding", "kind": "Embedding", "parameters": 8192},
            {"name": "blocks", "kind": "ModuleList", "parameters": 793088},
            {"name": "norm", "kind": "LayerNorm", "parameters": 256},
            {"name": "head", "kind": "Linear", "parameters": 8320},
        ],
        "from_data": "vocab_size=65",
    }
    (folder / "samples").mkdir(parents=True)
    lines = [
        started(
            recipe="gpt-shakespeare-cpu",
            command="strata train gpt-shakespeare-cpu",
            data=data,
            model=model,
            total_steps=total,
            steps_per_epoch=per_epoch,
            batch_size=12,
        )
    ]

    def run(first: int, last: int) -> None:
        for step in range(first, last + 1, 10):
            loss = 1.62 + 2.5 * math.exp(-step / 220) + 0.04 * random.standard_normal()
            speed = {
                "samples_per_second": 940.0 + 20 * random.random(),
                "tokens_per_second": 60200.0 + 900 * random.random(),
            }
            lines.append(
                stepped(step, total, per_epoch, {"train": loss}, gradient_norm=0.8 + 0.2 * random.random(), **speed)
            )
            if step % 200 == 0:
                loss = 1.86 + 2.3 * math.exp(-step / 250)
                metrics = {
                    "loss": loss,
                    "perplexity": math.exp(loss),
                    "bits_per_token": loss / math.log(2),
                    "accuracy": 0.46 - 0.3 * math.exp(-step / 300),
                }
                lines.append(evaluated(step, per_epoch, metrics))
                (folder / "samples" / f"step-{step}.txt").write_text(
                    VERSE if step > 200 else "\ntheo w'rd th, n oure se\n"
                )
                lines.append({"event": "sampled", "step": step, "file": f"samples/step-{step}.txt"})

    run(10, 1300)
    lines.append({"event": "resumed", "step": 1200, "time": "2025-11-21T10:02:11+00:00", "total_steps": total})
    lines.append({"event": "warned", "step": 1240, "message": "The gradient was 41 times its usual norm."})
    run(1210, total)
    loss = 1.8607
    lines.append(
        {
            "event": "finished",
            "step": total,
            "metrics": {
                "validation": {
                    "loss": loss,
                    "perplexity": math.exp(loss),
                    "bits_per_token": loss / math.log(2),
                    "accuracy": 0.4587,
                }
            },
            "seconds": 38.4,
            "total_seconds": 41.7,
            "samples_per_second": 944.0,
            "tokens_per_second": 60416.0,
            "steps": total,
            "device": "cpu",
            "precision": "bf16",
            "main_metric": "loss",
        }
    )
    reference = {"metric": "loss", "split": "validation", "published": 1.88, "source": "nanoGPT, README, CPU settings"}
    return write(
        folder,
        recipe(
            recipe="gpt-shakespeare-cpu",
            summary="",
            model={
                "kind": "gpt",
                "num_layers": 4,
                "num_heads": 4,
                "width": 128,
                "context": 64,
                "vocab_size": 65,
                "dropout": 0.0,
            },
            data={"source": "../data/tinyshakespeare/input.txt", "tokens": "character", "augment": {}},
            task={"kind": "next_token"},
            train=TRAIN | {"steps": total, "epochs": None, "schedule": "cosine"},
            reference=reference,
        ),
        lines,
    )


def gan(folder: Path) -> Path:
    """Write a GAN run with grids along the way."""
    from sklearn.datasets import load_digits

    random, total, per_epoch = np.random.default_rng(3), 6000, 468.0
    data = {
        "name": "fashion-mnist",
        "kind": "image",
        "splits": {"train": 57000, "validation": 3000},
        "labels": [],
        "class_counts": [],
        "notes": [],
    }
    model = {
        "name": "dcgan",
        "parameters": 6339714,
        "layers": [
            {"name": "generator", "kind": "Generator", "parameters": 3576704},
            {"name": "discriminator", "kind": "Discriminator", "parameters": 2763010},
        ],
        "from_data": "in_channels=1, image_size=32",
    }
    (folder / "samples").mkdir(parents=True)
    lines = [
        started(
            recipe="dcgan",
            task="adversarial",
            command="strata train dcgan data=fashion-mnist",
            data=data,
            model=model,
            total_steps=total,
            steps_per_epoch=per_epoch,
            batch_size=128,
        )
    ]
    digits = load_digits().images
    for step in range(30, total + 1, 30):
        losses = {
            "discriminator": 1.35 - 0.5 * math.exp(-step / 900) + 0.07 * random.standard_normal(),
            "generator": 0.85 + 1.9 * math.exp(-step / 700) + 0.12 * random.standard_normal(),
        }
        lines.append(stepped(step, total, per_epoch, losses, samples_per_second=1450 + 60 * random.random()))
        if step % 600 == 0:
            gap = 0.25 + 0.55 * math.exp(-step / 1500)
            metrics = {
                "discriminator_loss": 1.3,
                "discriminator_accuracy": 0.5 + gap / 2,
                "belief_in_real": 0.5 + gap / 2,
                "belief_in_fake": 0.5 - gap / 2,
            }
            lines.append(evaluated(step, per_epoch, metrics))
            clear = 1 - math.exp(-step / 1200)
            tiles = [clear * digits[k] * 15.9 + (1 - clear) * random.integers(0, 255, (8, 8)) for k in range(64)]
            grid = np.vstack(
                [np.hstack([np.pad(t, 1, constant_values=255) for t in tiles[r * 8 : r * 8 + 8]]) for r in range(8)]
            )
            picture = Image.fromarray(grid.clip(0, 255).astype("uint8"))
            picture.resize((640, 640), Image.Resampling.NEAREST).save(folder / "samples" / f"step-{step}.png")
            lines.append({"event": "sampled", "step": step, "file": f"samples/step-{step}.png"})
    lines.append(
        {
            "event": "finished",
            "step": total,
            "metrics": {"validation": lines[-2]["metrics"]},
            "seconds": 4 * 3600 + 312.0,
            "total_seconds": 4 * 3600 + 512.0,
            "samples_per_second": 1481.0,
            "steps": total,
            "device": "cuda:0",
            "precision": "bf16",
        }
    )
    return write(
        folder,
        recipe(
            recipe="dcgan",
            summary="",
            model={"kind": "dcgan", "latent_size": 100, "width": 64, "in_channels": 1, "image_size": 32},
            data={"source": "fashion-mnist", "pixels": "tanh", "augment": {}},
            task={"kind": "adversarial", "discriminator_steps": 1, "generator_loss": "non_saturating"},
            train=TRAIN | {"epochs": 12.8, "schedule": "constant", "optimizer": "adam", "learning_rate": 0.0002},
        ),
        lines,
    )


def half_finished(folder: Path) -> Path:
    """Write a classifier's run that was killed in the middle of a line."""
    classifier(folder, lines_until=110)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 112, "epo')
    return folder


def detector(folder: Path, *, positive: str | None = "pneumonia", threshold: float | None = 0.31) -> Path:
    """Write a calibrated classifier of X-rays that looks for one of two classes, on data of one source."""
    labels, counts, bins = ["normal", "pneumonia"], np.array([[190, 44], [12, 378]]), [[0.0, 0.0, 0.0]] * 7
    data = {
        "name": "xrays",
        "kind": "image",
        "splits": {"train": 4708, "validation": 524, "test": 624},
        "labels": labels,
        "class_counts": [1214, 3494],
        "notes": [],
    }
    metrics = {
        "accuracy": 568 / 624,
        "auroc": 0.9512,
        "sensitivity": 0.98,
        "specificity": 0.7,
        "ece": 0.021,
        "loss": 0.3,
    }
    calibration = {
        "bins": [*bins, *([40.0 + 20 * k, (40 + 20 * k) * (0.5 + k / 15), 20.0 + 20 * k] for k in range(8))],
        "ece": 0.021,
        "temperature": 1.7,
    }
    before = {"bins": [*bins, *([78.0, 78 * (0.53 + k / 15), 50.0] for k in range(8))], "ece": 0.083}
    detection = {
        "positive": "pneumonia",
        "positives": 390,
        "negatives": 234,
        "found": 382,
        "left_alone": 164,
        "threshold": threshold,
        "asked_specificity": None if threshold is None else 0.9,
        "auroc": 0.9512,
        "interval": [0.932, 0.966],
        "roc": [[0.0, 0.0], [0.02, 0.6], [0.1, 0.9], [0.3, 0.98], [1.0, 1.0]],
    }
    lines = [
        started(data=data, model={"name": "resnet", "parameters": 11_000_000, "layers": []}, command="strata train x"),
        stepped(100, 200, 20.0, {"train": 0.5}),
        evaluated(200, 20.0, metrics | {"ece": 0.08}),
        evaluated(200, 20.0, metrics | {"ece": 0.01}),
        evaluated(200, 20.0, metrics, "test"),
        {
            "event": "finished",
            "step": 200,
            "metrics": {"validation": metrics, "test": metrics},
            "seconds": 12.31,
            "samples_per_second": 118.0,
            "steps": 200,
            "device": "cpu",
            "precision": "fp32",
            "main_metric": "auroc",
            "confusion": {"labels": labels, "counts": counts.tolist()},
            "classes": class_rows(labels, counts),
            "calibration": calibration | {"before": before},
            "detection": detection,
        },
    ]
    task = {"kind": "classify", "positive": positive, "calibrate": True, "specificity": 0.9}
    model = {"kind": "resnet", "image_size": 28, "num_classes": 2}
    return write(folder, recipe(recipe="pneumonia", model=model, task=task, data={"source": "xrays"}), lines)


ALL = {
    "classifier": classifier,
    "detector": detector,
    "table": table,
    "gpt": gpt,
    "gan": gan,
    "half-finished": half_finished,
}
