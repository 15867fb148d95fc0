"""The one training loop. Read `Training.run` first; it is the whole of it.

A step goes through the task's phases; each draws its batch, adds up gradients over micro-batches, divides once by the
number of targets, clips, and lets its optimiser step. Everything drawn at random is a function of the step, so a run
that is killed and resumed takes exactly the steps it would have taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strata import rng
from strata.checkpoint import store
from strata.checkpoint.files import write_json
from strata.checkpoint.run_folder import RunFolder, create
from strata.data import open_data
from strata.data.augment import augment, augment_pair, mix
from strata.data.dataset import Dataset, TensorSplit
from strata.data.loader import Batch, Loader
from strata.device import decide
from strata.errors import ConfigError, RunError, StrataError, TrainingError
from strata.metrics import merit
from strata.models import build
from strata.tasks import Draw, Phase
from strata.tasks.base import Answering, Evaluation
from strata.train import announce, events, history, lora, transfer
from strata.train.average import Average
from strata.train.evaluate import batch_size_for, evaluate
from strata.train.events import Interrupted, Observer
from strata.train.finish import draw_sample, save_model, write_mistakes
from strata.train.finite import find_culprit, not_finite
from strata.train.guards import listening, logging_to, shortages_explained, taken_warnings, warnings_kept
from strata.train.optim import build_optimizer, clip_gradients, penalty_gradients
from strata.train.plan import make_plan
from strata.train.probe import feature_splits
from strata.train.recipe import Recipe, TrainConfig
from strata.train.reference import with_reference
from strata.train.state import TrainState
from strata.train.transfer import layer_rates
from strata.weights import head_is_new, load_into, new_tokens, open_weights

SECONDS_BETWEEN_SAVES = 60.0
FIRST_LOOK = 2000
"""Training samples that weights which begin as the data says may look at."""


@warnings_kept()
def train(recipe: Recipe, *, runs: Path | str = "runs", observers: Sequence[Observer] = (), command: str = "") -> Path:
    """Train a recipe in a new folder under ``runs`` and return the folder.

    Raises ConfigError or DataError before the folder is made where recipe and data do not fit; Interrupted after a
    signal, with everything saved; TrainingError when the loss is no longer finite.
    """
    dataset = open_data(recipe.data)
    recipe, from_data = resolve(recipe, dataset)
    training = Training(recipe, dataset)
    folder = RunFolder.create(create(Path(runs), recipe.name or recipe.recipe), recipe.to_json())
    try:
        return training.run(folder, observers, command=command, from_data=from_data)
    finally:
        folder.unlock()


@warnings_kept()
def resume(run: Path | str, *, observers: Sequence[Observer] = (), settings: dict[str, str] | None = None) -> Path:
    """Continue a run from its newest whole checkpoint, as if it had never stopped.

    Args:
        settings: ``train.steps`` or ``train.epochs`` to make the run longer, and how often it saves and evaluates.

    Raises RunError when the folder is not a run, is in use, or its data has changed.
    """
    folder = RunFolder(run)
    folder.lock()
    try:
        recipe = Recipe.from_json(folder.recipe())
        for key, value in (settings or {}).items():
            if key not in MAY_CHANGE:
                raise ConfigError(
                    f"A resumed run keeps its settings; {key!r} cannot change. May: {', '.join(MAY_CHANGE)}."
                )
            recipe = recipe.set({key: value})
        if any(record["event"] == "finished" for record in folder.records()) and not settings:
            return folder.path
        dataset = open_data(recipe.data)
        began_with = next((r["data"]["fingerprint"] for r in folder.records() if r["event"] == "started"), None)
        if began_with is not None and dataset.fingerprint != began_with:
            raise RunError(
                f"The data at {recipe.data.source} changed since {folder.path} began; it cannot go on as it was."
            )
        loaded = store.load_newest(folder.checkpoints)
        training = Training(recipe, dataset, fresh=loaded is None)
        taken = max(store.steps(folder.checkpoints), default=0)
        if settings and training.plan.total_steps < taken:
            raise ConfigError(
                f"{folder.path} has taken {taken} steps already; it cannot end after {training.plan.total_steps}."
            )
        if settings and loaded is not None:
            training.check_stage(loaded[0], Recipe.from_json(folder.recipe()).train)
        if settings:
            write_json(folder.path / "recipe.json", recipe.to_json())
        if began_with is None and loaded is None:  # killed before, or within, its first line of history
            folder.forget_after(-1)
            return training.run(folder, observers)
        return training.run(folder, observers, resuming=True, loaded=loaded, is_told=began_with is not None)
    finally:
        folder.unlock()


MAY_CHANGE = ("train.steps", "train.epochs", "train.save_every", "train.evaluate_every", "train.log_every")


def resolve(recipe: Recipe, dataset: Dataset) -> tuple[Recipe, str]:
    """Fill in what the data decides; return the recipe, and in words what the model took from the data."""
    task = recipe.task.resolve(dataset)
    task.check_model(recipe.model, dataset)
    fields = {field.name for field in dataclasses.fields(recipe.model)}
    sizes = {name: value for name, value in task.sizes(dataset).items() if name in fields}
    weights = recipe.weights
    if weights.source is not None and "vocab_size" in sizes:  # a vocabulary may be padded to a round number
        sizes["vocab_size"] = max(sizes["vocab_size"], recipe.model.vocab_size)
    model = dataclasses.replace(recipe.model, **sizes)
    if weights.source is not None:
        opened = open_weights(weights.source, model)
        if opened.layout == "Hugging Face" and "vocab_size" in fields and recipe.data.tokenizer is None:
            raise ConfigError(
                f"{weights.source} holds no tokenizer.json, and without its tokens these weights mean nothing. Put it "
                "beside them, or name one: data.tokenizer=PATH."
            )
        is_new = head_is_new(model, opened, dataset.labels)
        weights = dataclasses.replace(weights, new_head=is_new, new_tokens=new_tokens(model, opened))
    data = recipe.data
    if Path(data.source).exists() and dataset.details.get("path"):
        data = dataclasses.replace(data, source=str(Path(data.source).resolve()))
    places: dict[str, Any] = {name: _absolute(getattr(data, name)) for name in ("validation", "test", "tokenizer")}
    data = dataclasses.replace(data, **places)
    resolved = dataclasses.replace(recipe.filled_in(task), model=model, data=data, weights=weights)
    return resolved, ", ".join(f"{k}={v}" for k, v in sizes.items())


def _absolute(given: str | float | None) -> str | float | None:
    """Return a path as seen from anywhere, since a resume may come from another folder; a share as it is."""
    return str(Path(given).resolve()) if isinstance(given, str) and Path(given).exists() else given


class Training:
    """One run in the making: the resolved recipe, the data, and the state that they change.

    Args:
        fresh: no checkpoint will be loaded, so the weights begin as the recipe says.

    Raises ConfigError for settings that contradict each other, WeightsError for weights that do not fit.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, *, fresh: bool = True) -> None:
        self.recipe, self.dataset = recipe, dataset
        self.task, self.config = recipe.task, recipe.train
        self.split = self.task.split(dataset, "train", recipe.model, training=True)
        for name in dataset.splits:  # a text too short is refused now, and not at the first evaluation
            self.task.split(dataset, name, recipe.model, training=False)
        rng.seed_everything_for(self.config.seed, "initial weights")
        model: Any = build(recipe.model)
        notes: list[str] = []
        is_probe = recipe.weights.source is not None and recipe.weights.tune == "probe"
        asks_first = is_probe or self.task.needs_reference
        if recipe.weights.source is not None and (fresh or asks_first):
            notes.append(load_into(model, open_weights(recipe.weights.source, recipe.model), labels=dataset.labels))
        transfer.prepare(recipe.weights, model)
        stages = transfer.stages(recipe.weights, self.task.stages(), model)
        self.plan, self.staged = make_plan(self.config, len(self.split), stages), stages
        self.setup = decide(
            device=self.config.device,
            precision=self.config.precision,
            compile=self.config.compile,
            model=model,
            steps=self.plan.total_steps,
        )
        model = self.setup.place(model)
        if fresh and recipe.weights.source is None and hasattr(model, "initialize"):
            model.initialize(self._first_look())
        self.whole: nn.Module = model
        self.features: dict[str, TensorSplit] = {}
        if is_probe:
            flip_test = bool(getattr(self.task, "flip_test", False))
            self.features, said = feature_splits(model, dataset, self.setup, flip_test=flip_test)
            self.split = self.features["train"]
            stages = transfer.stages(recipe.weights, self.task.stages(), model, self.features["train"].input)
            self.plan, self.staged = make_plan(self.config, len(self.split), stages), stages
            notes.append(said)
        if self.task.needs_reference:
            dataset, said = with_reference(self.task, model, dataset, self.setup)
            self.split = self.task.split(dataset, "train", recipe.model, training=True)
            notes.append(said)
        self.dataset = dataset.replace(notes=(*dataset.notes, *notes))
        self.sees_pictures = dataset.kind == "image" and not is_probe
        if self.config.grow_from < 1 and not (self.sees_pictures and getattr(model, "takes_any_size", False)):
            raise ConfigError("train.grow_from resizes pictures as training goes, and this model takes only one size.")
        if self.config.grow_from < 1:
            self._check_first_side()
        model = model.head if is_probe else model
        self.state = TrainState(model=model.train())
        augment = recipe.data.augment
        if (augment.mixup or augment.cutmix) and self.sees_pictures and not self.task.mixes:
            raise ConfigError(f"data.augment.mixup and cutmix mix classes, and task {self.task.kind!r} has none.")
        if self.plan.batch_size == 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            raise ConfigError("The model's batch norm needs several samples at once: train.batch_size of at least 2.")
        if self.config.ema is not None:
            self.state.average = Average(model, self.config.ema)
        self.loaders = self._open_loaders()
        self._enter_stage()
        if self.setup.compile:
            for part in self.task.compiled_parts(model):
                part.compile()
        self.signal: int | None = None
        self.saved_step = -1
        self.logged_waiting = 0.0
        self.evaluation: Evaluation | None = None

    def _check_first_side(self) -> None:
        """Raise ConfigError where the smallest of growing pictures are too small for the network."""
        sizes, model = self.dataset.sizes, self.whole.eval()
        side = self.plan.side(0, sizes["image_size"])
        smallest = torch.zeros((1, sizes["in_channels"], side, side), device=self.setup.device)
        try:
            with torch.no_grad(), self.setup.autocast():
                model(self.setup.arrange(smallest))
        except RuntimeError as error:
            raise ConfigError(
                f"train.grow_from={self.config.grow_from:g} begins with pictures of {side} pixels, which are too small "
                "for this network. Begin with a greater share."
            ) from error

    def check_stage(self, step: int, before: TrainConfig) -> None:
        """Refuse a length that moves what has been trained into another stage, whose optimiser it would not fit.

        Args:
            before: the settings that were trained with until now.

        Raises ConfigError.
        """
        was, now = (plan.at(step).stage.name for plan in (make_plan(before, len(self.split), self.staged), self.plan))
        if was != now:
            raise ConfigError(
                f"{self.plan.total_steps} steps would put step {step}, which was taken in stage {was!r}, into stage "
                f"{now!r}. Make it less long, or begin a new run from this one's weights: weights=RUN."
            )

    # ------------------------------------------------------------------------------------------------ the run

    def run(
        self,
        folder: RunFolder,
        observers: Sequence[Observer] = (),
        *,
        resuming: bool = False,
        loaded: store.Loaded | None = None,
        command: str = "",
        from_data: str = "",
        is_told: bool = True,
    ) -> Path:
        """Train to the end and return the run's folder.

        Args:
            is_told: the history of a resumed run has its beginning.
        """
        self.folder = folder
        self.observers = (history.recorder(folder), history.writer(folder), *observers)
        with (
            logging_to(folder),
            listening(self._ask_to_stop),
            self._failure_told(),
            shortages_explained(folder, self.plan),
        ):
            if resuming:
                self._restore(loaded)
            else:
                self._begin_counting()
            if not (resuming and is_told):  # a power cut may take the first line, and not the checkpoint
                self._announce(command, from_data)
            self._start_clock()
            while True:
                if self._save_is_due():
                    self._save()
                with self._breaking_off():  # a signal may have come since it was asked whether to save
                    self._stop_if_asked()
                if self._evaluation_is_due():
                    with self._breaking_off():
                        self._evaluate()
                if self.state.stopped or self.state.step == self.plan.total_steps:
                    break
                self._step()
                if self.state.step % self.plan.log_every == 0 or self.state.step == self.plan.total_steps:
                    self._log()
            with self._breaking_off():
                self._finish()
        return folder.path

    def _step(self) -> None:
        state, planned = self.state, self.plan.at(self.state.step)
        rate = self.plan.rate(state.step)
        for phase in planned.stage.phases:
            if state.step % phase.every:
                continue
            optimizer, named = state.optimizers[phase.name]
            for group in optimizer.param_groups:
                group["lr"] = group["base_learning_rate"] * rate
            for repeat in range(phase.repeats):
                self._train_on(phase, repeat, optimizer, [parameter for _, parameter in named])
        if state.average is not None:
            state.average.update()
        state.step += 1
        self._emit(events.Stepped(step=state.step))
        if self.plan.at(state.step) is not planned:
            self._enter_stage()

    def _train_on(
        self, phase: Phase, repeat: int, optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]
    ) -> None:
        state, seed = self.state, self.config.seed
        draw_number = (state.step // phase.every) * phase.repeats + repeat
        batch = self._batch(phase, draw_number)
        self._hold_still_all_but(phase)
        total = count = scale = torch.zeros((), device=self.setup.device)
        for number, micro in enumerate(micro_batches(batch, self.config.accumulate)):
            rng.seed_everything_for(seed, f"layers in {phase.name}", draw_number, number)
            with self.setup.autocast():
                carried = state.carried.setdefault(f"{phase.name} {number}", {})
                draw = Draw(seed, draw_number, micro["sample"], carried)
                loss = self.task.objective(state.model, micro, phase.name, draw)
            targets = torch.as_tensor(loss.count, dtype=torch.float32, device=self.setup.device)
            # Divided by the first count already here, so that gradients keep their usual size; the rest at the end.
            scale = targets.clamp(min=1e-12) if number == 0 else scale
            (loss.total / scale).backward()
            total, count = total + loss.total.detach(), count + targets
        if self.config.accumulate > 1:
            torch._foreach_mul_([p.grad for p in trained if p.grad is not None], scale / count.clamp(min=1e-12))
        if self.config.l1 or self.config.l2:
            penalty_gradients(trained, self.config.l1, self.config.l2)
        if self.config.clip is not None:
            state.add("gradient norm", clip_gradients(trained, self.config.clip))
            state.add("gradient count", torch.ones(()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.add(f"loss {phase.name}", total)
        state.add(f"count {phase.name}", count)

    def _batch(self, phase: Phase, number: int) -> Batch:
        if phase.needs_data:
            return self.loaders[phase.name].batch(number, number)
        return {"sample": torch.arange(self.plan.samples_per_step, device=self.setup.device)}

    def _prepare(self, batch: Batch, step: int | None = None) -> Batch:
        """Turn a raw batch into what the model sees; with a step, augmented as that step's."""
        config, seed = self.recipe.data.augment, self.config.seed
        if step is not None and self.sees_pictures:
            epoch_B = batch["epoch"]
            batch["input"] = augment(batch["input"], config, seed, step, batch["sample"], epoch_B=epoch_B)
        if step is not None and self.dataset.kind == "pairs":
            batch = augment_pair(batch, config, seed, step)
        if not self.features:
            batch["input"] = self.dataset.preprocess.normalize(batch["input"])
        if step is not None and (config.mixup or config.cutmix) and self.sees_pictures:
            batch = mix(batch, config, seed, step, batch["sample"])
        if step is not None and self.config.grow_from < 1:
            side = self.plan.side(step, batch["input"].shape[-1])
            if side != batch["input"].shape[-1]:
                batch["input"] = F.interpolate(batch["input"], size=side, mode="bilinear", antialias=True)
        batch["input"] = self.setup.arrange(batch["input"])
        return batch

    # ------------------------------------------------------------------------------------------------ boundaries

    def _save_is_due(self) -> bool:
        step = self.state.step
        if step == self.saved_step:
            return False
        if self.signal is not None or step == self.plan.total_steps:
            return True
        if self.config.early_stopping is not None and self._evaluation_is_due():
            return True  # it may be the last
        if self.config.save_every is not None:
            return step > 0 and step % self.config.save_every == 0
        return time.monotonic() - self.saved_at > SECONDS_BETWEEN_SAVES

    def _save(self) -> None:
        self._stop_clock()
        self._refuse_bad_numbers(in_weights=True)
        began = time.monotonic()
        state = self.state
        state.wall_seconds = began - self.began
        store.save(self.folder.checkpoints, state.step, state.tensors(), state.numbers(), keep=self.config.keep)
        self.saved_step, self.saved_at = state.step, time.monotonic()
        self._emit(events.Saved(step=state.step, seconds=self.saved_at - began))
        self._start_clock()

    def _stop_if_asked(self) -> None:
        if self.signal is not None:
            raise Interrupted(self.folder.path, self.signal, self.state.step)

    @contextlib.contextmanager
    def _breaking_off(self) -> Iterator[None]:
        """Save before what a signal broke off is left; a resume does an evaluation again from its beginning."""
        try:
            yield
        except Interrupted:
            if self.saved_step != self.state.step and not self.state.stopped:
                self._save()
            raise

    @contextlib.contextmanager
    def _failure_told(self) -> Iterator[None]:
        """Tell who watches why a run cannot go on, before the error leaves."""
        try:
            yield
        except Exception as error:
            reason = str(error) if isinstance(error, StrataError) else f"{type(error).__name__}: {error}"
            failed = events.Failed(
                step=self.state.step,
                folder=str(self.folder.path),
                time=announce.now(),
                message=" ".join(reason.split()),
            )
            with contextlib.suppress(Exception):  # a full disk takes no more words, and the error itself matters more
                self._emit(failed)
            raise

    def _evaluation_is_due(self) -> bool:
        step = self.state.step
        due = step > 0 and (step % self.plan.evaluate_every == 0 or step == self.plan.total_steps)
        return due and not self.state.stopped

    def _evaluate(self) -> None:
        self._stop_clock()
        state = self.state
        if "validation" in self.dataset.splits:
            self.evaluation = self._measure("validation")
            self._judge(self.evaluation.metrics)
        if self.task.generates:
            with self._as_evaluated():
                file = draw_sample(
                    self.task, state.model, self._answering(), self.folder.samples, state.step, self.setup
                )
            self._emit(events.Sampled(step=state.step, file=f"samples/{file}"))
        self._start_clock()

    def _measure(self, split: str) -> Evaluation:
        began = time.monotonic()
        windows = self.features.get(split) or self.task.split(self.dataset, split, self.recipe.model, training=False)
        with self._as_evaluated():
            found = evaluate(
                self.task,
                self.state.model,
                windows,
                self.setup,
                self._prepare,
                self._answering(),
                batch_size=batch_size_for(self.config.batch_size),
                check=self._stop_if_asked,
            )
        self._emit(
            events.Evaluated(
                step=self.state.step,
                epoch=self.state.step / self.plan.steps_per_epoch,
                split=split,
                metrics=found.metrics,
                seconds=time.monotonic() - began,
                main_metric=self.task.main_metric,
            )
        )
        return found

    def _judge(self, metrics: dict[str, float]) -> None:
        """Remember the best validation metric, and stop where patience has run out."""
        state, name = self.state, self.task.main_metric
        if name is None or name not in metrics:
            return
        value, loss, better = metrics[name], metrics.get("loss", 0.0), self.task.higher_is_better
        best = None if state.best_value is None else merit(state.best_value, state.best_loss, higher_is_better=better)
        if not math.isnan(value) and (best is None or merit(value, loss, higher_is_better=better) > best):
            state.best_value, state.best_loss = value, loss
            state.best_step, state.evaluations_since_best = state.step, 0
            if self.config.early_stopping is not None:
                with self._as_evaluated():
                    state.best_weights = {k: v.detach().clone() for k, v in state.model.state_dict().items()}
        else:
            state.evaluations_since_best += 1
        if self.config.early_stopping is not None:
            state.stopped = state.evaluations_since_best >= self.config.early_stopping

    def _log(self) -> None:
        self._stop_clock()
        state, sums = self.state, {name: float(value) for name, value in self.state.sums.items()}
        losses = {
            name.removeprefix("loss "): value / count if (count := sums[f"count {name[5:]}"]) else math.nan
            for name, value in sums.items()
            if name.startswith("loss ")
        }
        if not all(math.isfinite(value) for value in losses.values()):
            self._refuse_bad_numbers()
        first = self.plan.at(state.step - 1).stage.phases[0]
        norm = sums["gradient norm"] / sums["gradient count"] if "gradient norm" in sums else None
        samples = self.plan.samples_between(state.logged_step, state.step)
        elapsed = max(state.seconds - state.logged_seconds, 1e-9)
        self.rates.append(samples / elapsed)
        self._emit(
            events.Logged(
                step=state.step,
                epoch=state.step / self.plan.steps_per_epoch,
                loss=sum(losses.values()),
                losses=losses,
                learning_rate=self.config.learning_rate * first.learning_rate_factor * self.plan.rate(state.step - 1),
                samples_per_second=samples / elapsed,
                tokens_per_second=samples / elapsed * self.tokens_per_sample if self.tokens_per_sample else None,
                waiting=min(1.0, (self._waited() - self.logged_waiting) / elapsed),
                gradient_norm=norm,
                seconds=state.seconds,
            )
        )
        state.sums, state.logged_step, state.logged_seconds = {}, state.step, state.seconds
        self.logged_waiting = self._waited()
        self._start_clock()

    def _refuse_bad_numbers(self, in_weights: bool = False) -> None:
        """Raise TrainingError when a loss since the last log line is not finite, so that no such state is kept.

        Args:
            in_weights: also when a weight is not, which the next loss would show.
        """
        bad = [n for n, v in self.state.sums.items() if n.startswith("loss ") and not math.isfinite(float(v))]
        if not bad and not (in_weights and not_finite(self.state.model)):
            return
        phases = self.plan.at(max(0, self.state.step - 1)).stage.phases
        phase = next((p for p in phases if f"loss {p.name}" in bad), phases[0])
        batch = self._batch(phase, max(0, self.state.step - 1) // phase.every * phase.repeats)
        draw = Draw(self.config.seed, self.state.step, batch["sample"])
        with self.setup.autocast():
            culprit = find_culprit(
                self.state.model, lambda: self.task.objective(self.state.model, batch, phase.name, draw)
            )
        kept = store.steps(self.folder.checkpoints)
        last = f" The last good checkpoint is step-{kept[-1]}." if kept else ""
        raise TrainingError(
            f"The {'loss is' if bad else 'weights are'} not finite after step {self.state.step}: {culprit}.{last} "
            "Try a lower train.learning_rate, train.clip=1, train.warmup=0.05 or train.precision=fp32."
        )

    def _finish(self) -> None:
        state = self.state
        self._stop_clock()
        if state.best_weights and state.best_step != state.step:
            state.average = None
            state.model.load_state_dict(state.best_weights)
            self.evaluation = None
        metrics: dict[str, dict[str, float]] = {}
        details: dict[str, Any] = {}
        found = self.evaluation
        for split in ("validation", "test"):
            if split not in self.dataset.splits:
                continue
            if split == "test" or found is None:
                found = self._measure(split)
            if split == "validation" and (fitted := self.task.after_training(found)) != self.task:
                self.task, self.recipe = fitted, dataclasses.replace(self.recipe, task=fitted)
                found = self._measure(split)
            metrics[split] = found.metrics
        if found is not None:
            last = "test" if "test" in self.dataset.splits else "validation"
            findings = self.task.findings(found.sums, found.per_sample, self.dataset.labels)
            windows = self.task.split(self.dataset, last, self.recipe.model, training=False)
            details = write_mistakes(findings, windows, self.folder, self.dataset)
            with torch.no_grad(), self.setup.autocast(), self._as_evaluated():
                model = self.state.model
                details["texts"] = self.task.examples(model, self.dataset, last, self._answering()) or None
                details["gradient_flow"] = self.task.gradient_flow(model, self.dataset, last, self.setup.device) or None
        with self._as_evaluated():
            save_model(self.folder.model, self.recipe, lora.merged(self.whole), self.dataset)
        samples = self.plan.samples_between(0, state.step)
        rate = statistics.median(self.rates) if len(self.rates) > 2 else samples / max(state.seconds, 1e-9)
        self._emit(
            events.Finished(
                step=state.step,
                folder=str(self.folder.path),
                metrics=metrics,
                seconds=state.seconds,
                total_seconds=time.monotonic() - self.began,
                samples_per_second=rate,
                tokens_per_second=rate * self.tokens_per_sample if self.tokens_per_sample else None,
                steps=state.step,
                device=str(self.setup.device),
                precision=self.setup.precision,
                main_metric=self.task.main_metric,
                stopped_early=state.stopped,
                **details,
            )
        )
        for loader in self.loaders.values():
            loader.close()

    # ------------------------------------------------------------------------------------------------ parts

    def _enter_stage(self) -> None:
        """Give each phase of the present stage a fresh optimiser over its parameters."""
        config, model = self.config, self.state.model
        self.state.optimizers = {}
        self.trained: dict[str, set[str]] = {}
        for phase in self.plan.at(self.state.step).stage.phases:
            named = [(n, p) for n, p in model.named_parameters() if n.startswith(phase.parameters)]
            for _, parameter in named:
                parameter.requires_grad_(True)
            assert named, f"phase {phase.name!r} names no parameter of {type(model).__name__}"
            rates = {} if phase.first_layer_rate == 1 else layer_rates([n for n, _ in named], phase.first_layer_rate)
            optimizer = build_optimizer(
                model,
                named,
                layer_rates=rates,
                name=config.optimizer,
                learning_rate=config.learning_rate * phase.learning_rate_factor,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                betas=config.betas,
                matmul_dtype=torch.bfloat16 if self.setup.precision == "bf16" else torch.float32,
            )
            self.state.optimizers[phase.name] = (optimizer, named)
            self.trained[phase.name] = {name for name, _ in named}
        everything = {name for name, _ in model.named_parameters()}
        self.trains_everything = all(trained == everything for trained in self.trained.values())
        self._train_mode()

    def _train_mode(self) -> None:
        """Put the model in training mode, but for batch norms that this stage does not train: they keep what they are.

        Their running statistics would else drift away from the weights that stand still.
        """
        model = self.state.model.train()
        trained = {name.rpartition(".")[0] for names in self.trained.values() for name in names}
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and name not in trained:
                module.eval()

    def _first_look(self) -> Tensor:
        """Return some training pictures as the model sees them, for weights that begin as the data says."""
        index_B = rng.permutation(len(self.split), self.config.seed, "first look", 0)[:FIRST_LOOK]
        raw = self.split.gather(index_B, torch.zeros_like(index_B))["input"].to(self.setup.device)
        return self.dataset.preprocess.normalize(raw)

    def _hold_still_all_but(self, phase: Phase) -> None:
        if self.trains_everything:  # _enter_stage has let them all move
            return
        for name, parameter in self.state.model.named_parameters():
            parameter.requires_grad_(name in self.trained[phase.name])

    def _open_loaders(self) -> dict[str, Loader]:
        split: Any = self.split
        if self.setup.device.type != "cpu" and hasattr(split, "to"):
            split = split.to(self.setup.device)
        return {
            phase.name: Loader(
                split,
                batch_size=self.plan.samples_per_step,
                seed=self.config.seed,
                stream=phase.name,
                device=self.setup.device,
                prepare=self._prepare,
                prefetch=not getattr(split, "in_memory", True),
                class_N=split.target if self.dataset.balance else None,
            )
            for planned in self.plan.stages
            for phase in planned.stage.phases
            if phase.needs_data
        }

    @contextlib.contextmanager
    def _as_evaluated(self) -> Iterator[None]:
        """Put the weights in place that are evaluated and kept: the moving average, where there is one."""
        context = self.state.average.swapped_in() if self.state.average is not None else contextlib.nullcontext()
        with context:
            self.whole.eval()
            try:
                yield
            finally:
                self._train_mode()

    def _answering(self) -> Answering:
        return Answering(self.dataset.labels, self.dataset.preprocess, self.setup.device)

    @property
    def tokens_per_sample(self) -> int:
        """Tokens in a sample of text, else 0."""
        return int(getattr(self.split, "context", 0))

    def _waited(self) -> float:
        return sum(loader.waited_seconds for loader in self.loaders.values())

    # ------------------------------------------------------------------------------------------------ beginnings

    def _restore(self, loaded: store.Loaded | None) -> None:
        warnings: list[str] = []
        if loaded is not None:
            step, tensors, numbers, warnings = loaded
            self.state.step = step
            self._enter_stage()
            self.state.load(tensors, numbers)
            self.saved_step = step
        self.folder.forget_after(self.state.step)
        self._begin_counting()
        for warning in warnings:
            self._emit(events.Warned(step=self.state.step, message=warning))
        self._emit(announce.resumed(self.recipe, self.plan, self.folder, self.state.step))

    def _announce(self, command: str, from_data: str) -> None:
        recipe, dataset, model, folder = self.recipe, self.dataset, self.whole, self.folder
        self._emit(
            announce.started(
                recipe, dataset, model, self.setup, self.plan, folder, command=command, from_data=from_data
            )
        )
        for message in announce.without_effect(recipe, dataset, self.plan):
            self._emit(events.Warned(step=0, message=message))

    def _ask_to_stop(self, signal: int) -> None:
        self.signal = signal

    def _begin_counting(self) -> None:
        self.saved_at = time.monotonic()
        self.began: float = self.saved_at - self.state.wall_seconds
        self.logged_waiting = 0.0
        self.rates: list[float] = []
        self.clock: float | None = None

    def _start_clock(self) -> None:
        self.clock = time.perf_counter()

    def _stop_clock(self) -> None:
        if self.clock is not None:
            self.setup.synchronize()
            self.state.seconds += time.perf_counter() - self.clock
            self.clock = None

    def _emit(self, event: events.Event) -> None:
        said = () if isinstance(event, events.Started | events.Resumed) else taken_warnings()  # those two come first
        for each in (*(events.Warned(step=self.state.step, message=message) for message in said), event):
            for observer in self.observers:
                observer(each)


def micro_batches(batch: Batch, parts: int) -> Iterator[Batch]:
    """Cut a step's batch into equal parts."""
    if parts == 1:
        yield batch
        return
    pieces: dict[str, tuple[Tensor, ...]] = {name: tensor.chunk(parts) for name, tensor in batch.items()}
    for number in range(parts):
        yield {name: piece[number] for name, piece in pieces.items()}
