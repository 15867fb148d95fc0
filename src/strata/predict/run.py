"""A run, as used after training: its metrics, its model, its answers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strata.checkpoint.files import read_json, read_model
from strata.checkpoint.run_folder import RunFolder
from strata.config import from_json
from strata.data import load_preprocess, open_data
from strata.data.dataset import Dataset
from strata.data.measured import open_measured
from strata.data.preprocess import ImagePreprocess
from strata.device import Setup, decide
from strata.errors import ConfigError, DataError, RunError
from strata.kernels import int8
from strata.models import build, config_class
from strata.predict.attention import AttentionMap
from strata.predict.decode import for_tokens
from strata.predict.foreign import read_foreign
from strata.predict.packed import choose_weights
from strata.predict.ready import in_bytes, ready
from strata.tasks import TASKS, Sample, Task
from strata.tasks.base import Answering, Evaluation
from strata.tasks.decoding import Decoding
from strata.tasks.image_to_image import TILE_SIDE
from strata.tasks.translate import Translate
from strata.tasks.writing import Language, Writing, write
from strata.train.evaluate import batch_size_for, evaluate
from strata.train.finish import save_grid
from strata.train.recipe import Recipe
from strata.train.reference import reference_of

logger = logging.getLogger(__name__)
PRECISIONS = ("auto", "fp32", "bf16", "int8")
WHOLE_AT_ONCE = 4
"""Pictures of any size that are held together: a camera's may have tens of millions of pixels."""
BATCHES_AHEAD = 3
"""Of pictures that are read while the model answers."""


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """What stands among raw inputs for one that was named and cannot be read."""

    input: str
    reason: str


class Predictor:
    """A trained model with everything it needs to answer.

    Args:
        folder: a run's ``model/`` folder, or a Hugging Face folder.
        device, precision: as in ``train.device`` and ``train.precision``. On a CPU precision may also be "int8": linear
            layers and convolutions multiply bytes, which is several times faster and changes answers a little;
            ``strata evaluate RUN precision=int8`` says how much.

    Raises ConfigError for another precision, RunError when the folder holds no model, WeightsError when it holds one
    that Strata cannot take.
    """

    def __init__(self, folder: Path | str, *, device: str = "auto", precision: str = "auto") -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise RunError(f"{self.folder} holds no model: config.json is missing. The run may not have finished.")
        config = read_json(self.folder / "config.json")
        model: Any
        if "model_type" in config:
            self.task, model, self.preprocess, labels = read_foreign(self.folder)
        else:
            self.task, model, self.preprocess, labels = _read_ours(self.folder, config)
        if precision not in PRECISIONS:
            raise ConfigError(f"precision={precision} is not known. Allowed: {', '.join(PRECISIONS)}.")
        by_bytes = precision == "int8"
        products = "fp32" if by_bytes else precision
        self.setup: Setup = decide(device=device, precision=products, compile=False, model=model)
        self.model: nn.Module = self.setup.place(model).eval()
        if by_bytes:
            self.model, decision = in_bytes(self.model, self.setup, _example(self.preprocess, self.model))
            tell = logger.warning if isinstance(int8.kernel(), str) else logger.info
            tell("%s: %s (%s)", *dataclasses.astuple(decision))
        self.context = Answering(labels, self.preprocess, self.setup.device)
        self._fast: nn.Module | None = self.model if by_bytes else None
        self._packed: dict[str, nn.Module] = {}

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn a raw batch into what the model's forward takes."""
        return batch | {"input": self.setup.arrange(self.preprocess.normalize(batch["input"]))}

    @torch.no_grad()
    def predict(self, inputs: Iterable[Any], batch_size: int = 64) -> Iterator[dict[str, Any]]:
        """Yield an answer for each raw input (a path, a picture, an array, a table's row, a text), in order.

        Inputs are taken as they are needed, pictures read in threads a few batches ahead, and nothing is kept, so
        there may be any number. One that cannot be read gives ``{"error": why}``, and does not end a long job.
        Raises ConfigError when the model makes things and does not answer.
        """
        if type(self.task).answers is Task.answers and type(self.task).answers_to is Task.answers_to:
            raise ConfigError("This model makes things and answers no questions. Use: strata generate RUN.")
        if self.preprocess.kind == "image" and self.preprocess.image_size is None:
            batch_size = min(batch_size, WHOLE_AT_ONCE)
        with contextlib.closing(self._read_ahead(iter(inputs), batch_size)) as reading:
            model = self.model
            while waiting := list(itertools.islice(reading, batch_size)):
                yield from self._answer(waiting, model)
                if self.preprocess.kind == "image" and len(waiting) == batch_size:
                    model = self._made_fast(waiting)  # of more than one batch, making it is repaid

    def _read_ahead(self, inputs: Iterator[Any], batch_size: int) -> Generator[tuple[Any, Tensor | str]]:
        if self.preprocess.kind != "image":  # rows and texts take less time to read than a thread to be told
            yield from map(self._read, inputs)
            return
        pool = ThreadPoolExecutor(min(32, os.cpu_count() or 1), thread_name_prefix="predict")
        reading: deque[Future[tuple[Any, Tensor | str]]] = deque()
        try:
            for raw in inputs:
                reading.append(pool.submit(self._read, raw))
                if len(reading) == BATCHES_AHEAD * batch_size:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, raw: Any) -> tuple[Any, Tensor | str]:
        if isinstance(raw, Unreadable):
            return raw.input, raw.reason
        try:
            return raw, self.task.read(raw, self.preprocess)
        except DataError as error:
            return raw, str(error)

    def _made_fast(self, waiting: list[tuple[Any, Tensor | str]]) -> nn.Module:
        """Return the model in its fast form, made when it is first asked for with some input that was read."""
        example = next((read for _, read in waiting if isinstance(read, Tensor)), None)
        if self._fast is None and example is not None:
            part = example[..., :TILE_SIDE, :TILE_SIDE] if self.preprocess.image_size is None else example
            input_B = self.prepare({"input": part[None].to(self.setup.device)})["input"]
            self._fast = ready(self.model, self.setup, input_B)
        return self._fast or self.model

    def _answer(self, waiting: list[tuple[Any, Tensor | str]], model: nn.Module) -> Iterator[dict[str, Any]]:
        groups: dict[tuple[int, ...], list[int]] = {}  # texts differ in length: equal shapes go together
        for k, (_, read) in enumerate(waiting):
            if isinstance(read, Tensor):
                groups.setdefault(tuple(read.shape), []).append(k)
        answers: dict[int, dict[str, Any]] = {}
        readable = sorted(k for numbers in groups.values() for k in numbers)
        if readable:
            with self.setup.autocast():
                of_raws = self.task.answers_to(model, [waiting[k][0] for k in readable], self.context)
            if of_raws is not None:
                answers, groups = dict(zip(readable, of_raws, strict=True)), {}
        for numbers in groups.values():
            input_B = torch.stack([torch.as_tensor(waiting[k][1]) for k in numbers]).to(self.setup.device)
            with self.setup.autocast():
                found = self.task.answers(model, self.prepare({"input": input_B})["input"], self.context)
            answers |= dict(zip(numbers, found, strict=True))
        for k, (raw, read) in enumerate(waiting):
            named = {"input": str(raw)} if isinstance(raw, str | Path) else {}
            yield named | (answers[k] if k in answers else {"error": str(read)})

    @torch.no_grad()
    def attention(self, text: str) -> AttentionMap:
        """Return where in a text the model looks while it turns it into another; ``save("map.png")`` draws it.

        Raises ConfigError for a model that writes no text from a text, or looks at nothing.
        """
        if not isinstance(self.task, Translate):
            raise ConfigError("This model does not turn a text into another, and so looks at none while it writes.")
        source = self.preprocess.read(text).tolist()
        with self.setup.autocast():
            found = self.task.attention(self.model, source, self.context)
        return AttentionMap(tuple(found["source"]), tuple(found["target"]), tuple(map(tuple, found["weights"])))

    @torch.no_grad()
    def generate(self, **options: Any) -> Sample:
        """Let the model make something, as a function of ``seed``: see the task's `sample` for the options.

        A model of texts also takes ``weights``: "fp32", "bf16" or "int8", how those of its linear layers are kept; what
        is best here where it is left out, see `choose_weights`. Its ``draft`` may be a run, or a run's or model's path.

        Raises ConfigError when the model answers and makes nothing.
        """
        if not self.task.generates:
            raise ConfigError("This model answers and makes nothing. Use: strata predict RUN INPUT.")
        if not hasattr(self.model, "new_cache"):  # nothing that is made a token at a time
            with self.setup.autocast():
                return self.task.sample(self.model, self.context, **options)
        model, autocast = self._for_tokens(options.pop("weights", None) or "auto")
        if options.get("draft") is not None:
            options["draft"] = self._draft(options["draft"])
        with autocast:
            return self.task.sample(model, self.context, **options)

    @torch.no_grad()
    def write(
        self,
        prompt: Sequence[int],
        settings: Decoding,
        language: Language,
        *,
        stream: Callable[[str], None] | None = None,
        weights: str | None = None,
        draft: Run | Path | str | None = None,
    ) -> Writing:
        """Continue the tokens of one prompt. The arguments are those of `strata.tasks.writing.write` and `generate`."""
        model, autocast = self._for_tokens(weights or "auto")
        guesses = None if draft is None else self._draft(draft)
        with autocast:
            found = write(model, [prompt], settings, language, device=self.setup.device, draft=guesses, stream=stream)
        return found[0][0]

    def _draft(self, draft: Run | Path | str) -> nn.Module:
        """Return the model of a run or path that guesses ahead. Raises ConfigError where its tokens are others."""
        if not isinstance(draft, Run):
            path = Path(draft).expanduser()
            other = Predictor(path) if (path / "config.json").is_file() else Run(path).predictor()
        else:
            other = draft.predictor()
        if other.preprocess != self.preprocess:
            raise ConfigError(
                f"The draft {draft} was trained with other tokens, so that its guesses mean something else."
            )
        return other._for_tokens("auto")[0]

    def _for_tokens(self, weights: str) -> tuple[nn.Module, contextlib.AbstractContextManager[Any]]:
        """Return the model with its weights kept as is best, and the context in which it runs."""
        decision = choose_weights(weights, self.model, self.setup)
        logger.info("%s: %s (%s)", *dataclasses.astuple(decision))
        if decision.value not in self._packed:
            self._packed = {decision.value: for_tokens(self.model, decision.value, self.setup)}
        if decision.value == "fp32":
            autocast = self.setup.autocast() if weights == "auto" else contextlib.nullcontext()
            return self._packed["fp32"], autocast
        on_cpu = self.setup.device.type == "cpu"
        bf16 = contextlib.nullcontext() if on_cpu else torch.autocast(self.setup.device.type, dtype=torch.bfloat16)
        return self._packed[decision.value], bf16


def _example(preprocess: Any, model: Any) -> Tensor | None:
    """Return a picture of noise, as a network takes it that reads pictures: (1, C, H, W)."""
    if not isinstance(preprocess, ImagePreprocess):
        return None
    side = preprocess.image_size or model.config.image_size
    return torch.randn(1, preprocess.channels, side, side, generator=torch.Generator().manual_seed(0))


def _read_ours(folder: Path, config: dict[str, Any]) -> tuple[Task, nn.Module, Any, tuple[str, ...]]:
    """Return task, model, preprocessing and labels of a folder that a run wrote."""
    try:
        model_config = from_json(config_class(config["model"]["kind"]), config["model"], "model")
        task = from_json(TASKS.get(config["task"]["kind"]), config["task"], "task")
        labels = tuple(config["labels"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} is not a model's: {error} is missing.") from None
    model = build(model_config)
    read_model(folder / "model.safetensors", model)
    return task, model, load_preprocess(folder), labels


class Run:
    """A run's folder, and what one does with it.

    Raises RunError when the folder is not a run.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = RunFolder(folder)
        self._predictor: Predictor | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self._folder.path

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return Recipe.from_json(self._folder.recipe())

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return self._folder.records()

    @property
    def finished(self) -> dict[str, Any] | None:
        """The last word of a finished run: metrics, seconds, throughput; None while it is unfinished."""
        return next((r for r in reversed(self.records) if r["event"] == "finished"), None)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Final metrics by split, ``{"validation": {...}, "test": {...}}``; the latest evaluation while unfinished."""
        if self.finished is not None:
            return dict(self.finished["metrics"])
        return {r["split"]: r["metrics"] for r in self.records if r["event"] == "evaluated"}

    def predictor(self, **options: Any) -> Predictor:
        """Return the trained model with everything it needs to answer; the options are those of `Predictor`."""
        if self._predictor is None or options:
            if not (self._folder.model / "config.json").is_file():
                raise RunError(f"{self.folder} has not finished. Continue it with: strata resume {self.folder}")
            found = Predictor(self._folder.model, **options)
            if options:
                return found
            self._predictor = found
        return self._predictor

    def model(self) -> nn.Module:
        """Return the trained nn.Module, in eval mode."""
        return self.predictor().model

    def predict(self, inputs: Any) -> Any:
        """Answer one raw input, or a list of them with a list of answers."""
        if isinstance(inputs, list | tuple):
            return list(self.predictor().predict(inputs))
        answer = next(iter(self.predictor().predict([inputs])))
        if "error" in answer:
            raise DataError(answer["error"])
        return answer

    def generate(self, prompt: str | list[str] | None = None, **options: Any) -> Any:
        """Return what the model makes: a text, or pictures as uint8 (N, C, H, W).

        A list of prompts gives a list of texts, and ``number=N`` a list of N texts of each prompt. See
        `strata.tasks.decoding.Decoding` for how a text is written.
        """
        sample = self.predictor().generate(prompt=prompt, **options)
        if sample.images is not None:
            return sample.images
        return sample.text if sample.texts is None else sample.texts

    def attention(self, text: str) -> AttentionMap:
        """Return where in a text the model looks while it turns it into another: see `Predictor.attention`."""
        return self.predictor().attention(text)

    def evaluate(self, split: str | None = None, data: str | None = None, **options: Any) -> Evaluation:
        """Measure the trained model on a split of its data, or on other data of the same kind.

        Args:
            split: "train", "validation" or "test"; the test split, else validation, when None.
            data: a path; its own "test" is taken, else everything. Pictures and tables are read as the model's own
                preprocessing reads, and the training data may be gone; texts and pairs are read beside it.

        Raises RunError for data that changed since the run, or that is of other classes or characters.
        """
        predictor, recipe = self.predictor(**options), self.recipe
        if data is not None and split not in (None, "test"):
            raise ConfigError(f"split={split} has no meaning with data=PATH, which is measured as test data.")
        dataset = self._open(predictor, None if data is None else Path(data).expanduser().resolve())
        split = split if data is None else "test"
        chosen = split or ("test" if "test" in dataset.splits else "validation")
        if chosen not in dataset.splits:
            raise DataError(f"Data {dataset.name!r} has no split {chosen!r}. It has: {', '.join(dataset.splits)}.")
        if predictor.task.needs_reference:
            dataset = reference_of(recipe, dataset, predictor.setup)
        windows = predictor.task.split(dataset, chosen, recipe.model, training=False)
        batch_size = batch_size_for(recipe.train.batch_size)
        found = evaluate(
            predictor.task,
            predictor.model,
            windows,
            predictor.setup,
            predictor.prepare,
            predictor.context,
            batch_size=batch_size,
        )
        notes = tuple(predictor.task.signatures(dataset, chosen))
        return dataclasses.replace(found, split=chosen, samples=len(windows), notes=notes)

    def _open(self, predictor: Predictor, other: Path | None) -> Dataset:
        """Return the run's data, or other data as its model reads it."""
        config, started = self.recipe.data, self._started
        if other is not None and other != Path(config.source).expanduser().resolve():
            kind = started["data"]["kind"] if started is not None else str(config.kind)
            found = open_measured(other, kind, predictor.preprocess, predictor.context.labels, config)
            if found is not None:
                return found
        if other is not None:
            config = dataclasses.replace(config, test=str(other))
        text = getattr(predictor.preprocess, "text", predictor.preprocess)
        if getattr(text, "tokenizer", "") or config.tokenizer is not None:
            # As it was learned: trained again it would be the same and take its time, and a folder may be gone
            config = dataclasses.replace(
                config, tokenizer=str(self._folder.model), tokens=None, vocab_size=None, lowercase=False
            )
        dataset = open_data(config)
        self._check_same(dataset, predictor, whole=other is None)
        return dataset

    @property
    def _started(self) -> dict[str, Any] | None:
        return next((record for record in self.records if record["event"] == "started"), None)

    def _check_same(self, dataset: Dataset, predictor: Predictor, *, whole: bool) -> None:
        """Refuse data in which a number means another class or character than the model learned."""
        started = self._started
        if whole and started is not None and started["data"]["fingerprint"] != dataset.fingerprint:
            raise RunError(f"The data of {self.folder} changed since it was trained. Measure on other data: data=PATH.")
        learned, found = predictor.preprocess, dataset.preprocess
        if (dataset.labels, getattr(found, "characters", ())) != (
            predictor.context.labels,
            getattr(learned, "characters", ()),
        ):
            raise RunError(f"This data has other classes or characters than those that {self.folder} learned.")


__all__ = ["Predictor", "Run", "save_grid"]
