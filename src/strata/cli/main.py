"""``strata``: the commands. Each imports what it needs when it runs, so that ``strata --help`` answers at once."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from strata.errors import ConfigError, StrataError

app = typer.Typer(
    name="strata",
    help="Deep learning as one system: train, resume, evaluate, predict and generate with the same few words.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

UsageError: Any = typer.BadParameter.__base__
"""What a wrong option raises; which module has it differs from one typer to the next."""
RunArgument = Annotated[Path, typer.Argument(help="The run's folder, such as runs/digits-1.", metavar="RUN")]
Settings = Annotated[list[str] | None, typer.Argument(help="Settings as key=value.", metavar="[KEY=VALUE]...")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that the run's own folder is made in.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of the output.")]


def console(as_json: bool = False) -> Any:
    """Return where people's output goes: standard error when standard output belongs to JSON."""
    from rich.console import Console

    return Console(stderr=as_json)


def answer(values: dict[str, Any]) -> None:
    """Print a JSON object as the last line of standard output; what is no number is null, as JSON has it."""
    sys.stdout.write(json.dumps(plain(values), ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """Return what JSON can hold: numbers that are not finite are null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def split_settings(settings: list[str] | None) -> dict[str, str]:
    """Return ``key=value`` words as a dict."""
    from strata.config import parse_settings

    return parse_settings(settings or [])


@app.command()
def train(
    what: Annotated[str, typer.Argument(help="A recipe's name, a path of data, or a run.", metavar="RECIPE|PATH|RUN")],
    settings: Settings = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train a recipe by name, what suits the data at a path, or a run's recipe again.

    strata train digits · strata train ./photos train.epochs=10 · strata train runs/digits-1 train.seed=1
    """
    from strata import api
    from strata.cli.progress import watching

    given = split_settings(settings)
    if "=" in what and not Path(what).exists():
        given = split_settings([what]) | given
        if "data" not in given:
            raise ConfigError("Say what to train: a recipe's name or a path of data, as in: strata train digits.")
        what = given.pop("data")
    out = console(as_json)
    recipe, reason = api.choose(what, given)
    if reason:
        out.print(reason, highlight=False, markup=False, soft_wrap=True)
    with stopping_well(as_json), watching(out) as observer:
        run = api.train(recipe, runs=runs.expanduser(), observers=[observer], command=command_line())
    _conclude(run, out, as_json)


@app.command()
def resume(run: RunArgument, settings: Settings = None, as_json: AsJson = False) -> None:
    """Continue a run that was stopped, as if it had never been."""
    from strata import api
    from strata.cli.progress import watching

    out = console(as_json)
    before = api.Run(run).finished
    with stopping_well(as_json), watching(out) as observer:
        done = api.resume(run, split_settings(settings), observers=[observer])
    if before is not None and not settings:
        out.print(
            f"{run} had finished already; train.steps=N or train.epochs=N makes it longer.",
            highlight=False,
            markup=False,
        )
    _conclude(done, out, as_json)


def _conclude(run: Any, out: Any, as_json: bool) -> None:
    finished = run.finished
    out.print(f"Report    {run.folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    use = f"generate {run.folder}" if run.recipe.task.generates else f"predict {run.folder} INPUT..."
    out.print(f"Use it    strata {use}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        kept = ("metrics", "seconds", "samples_per_second", "tokens_per_second", "steps", "device", "precision")
        answer({"run": str(run.folder)} | {key: finished[key] for key in kept if key in finished})


@app.command()
def evaluate(run: RunArgument, settings: Settings = None, as_json: AsJson = False) -> None:
    """Measure a trained run on its test data: split=validation or data=PATH for others."""
    from strata import api
    from strata.train.history import shown

    options = _only(split_settings(settings), "split", "data", "device", "precision")
    opened = api.Run(run)
    split = options.pop("split", None)
    found = opened.evaluate(split, options.pop("data", None), **options)
    measured = f"{found.split}: {shown(found.metrics)} ({found.samples:,} samples)"
    console(as_json).print("\n".join([measured, *found.notes]), highlight=False, markup=False)
    if as_json:
        answer({"run": str(run), "metrics": {found.split: found.metrics}, "samples": found.samples})


@app.command()
def predict(
    run: RunArgument,
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders, tables or texts.", metavar="INPUT...")],
    top: Annotated[int, typer.Option(help="How many answers for each input.", min=1)] = 1,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print answers as CSV.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for answers that are pictures.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or int8 on a CPU; what is best here if auto.")] = "auto",
) -> None:
    """Answer with a trained run: a picture's class or mask, the number for a table's row, what follows a text."""
    from strata import api
    from strata.cli import answers
    from strata.cli.progress import counting
    from strata.config import Positive, parse

    given, inputs = _settings_among(inputs, "top", "out", "precision")
    top = parse(Positive, given["top"], "top") if "top" in given else top
    out = Path(given["out"]) if "out" in given else out
    predictor = api.predictor(run, precision=given.get("precision", precision))
    columns = getattr(predictor.preprocess, "inputs", ())
    raw: Any = answers.expand(inputs, predictor.preprocess.kind, columns)
    if predictor.preprocess.kind == "image":  # their paths: so many that the bar has an end, and no more memory
        raw = list(raw)
    found = answers.write_pictures(predictor.predict(raw), None if out is None else out.expanduser(), run)
    with counting(console(True), len(raw) if isinstance(raw, list) else None) as counted:
        detects = predictor.task.kind == "classify" and getattr(predictor.task, "threshold", None) is not None
        count, failed = answers.show(counted(found), top=top, as_json=as_json, as_csv=as_csv, detects=detects)
    if failed:
        were = "was" if failed == 1 else "were"
        console(True).print(
            f"[bold red]Error:[/] {failed:,} of {count:,} inputs could not be read and {were} skipped.", highlight=False
        )
        raise typer.Exit(2)


@app.command()
def generate(
    run: RunArgument,
    settings: Settings = None,
    prompt: Annotated[str | None, typer.Option(help="Text to continue.")] = None,
    tokens: Annotated[int, typer.Option(help="How many tokens of text at most.", min=1)] = 300,
    min_tokens: Annotated[int | None, typer.Option(help="How many at least.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; higher is more varied; 0.8.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Choose among the likeliest K tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Choose among the likeliest that have probability P.")] = None,
    min_p: Annotated[float | None, typer.Option(help="At least P times the likeliest one's probability.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: fewer tokens again.")] = None,
    no_repeat_ngram: Annotated[int | None, typer.Option(help="No N tokens in a row twice.")] = None,
    beams: Annotated[int | None, typer.Option(help="Search the likeliest text with N beams.")] = None,
    length_penalty: Annotated[float | None, typer.Option(help="Of beams: greater prefers longer texts.")] = None,
    contrastive: Annotated[float | None, typer.Option(help="Contrastive search with this weight, such as 0.6.")] = None,
    regex: Annotated[str | None, typer.Option(help="What is written has to match this expression.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    draft: Annotated[Path | None, typer.Option(help="A smaller run that guesses ahead.", metavar="RUN")] = None,
    draft_tokens: Annotated[int | None, typer.Option(help="How many tokens it guesses.")] = None,
    weights: Annotated[str | None, typer.Option(help="How weights are kept: fp32, bf16 or int8.")] = None,
    number: Annotated[int | None, typer.Option(help="How many texts.")] = None,
    count: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="The same seed makes the same thing.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File for the pictures (.png) or the text.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a trained run make something: text from a GPT, pictures from a GAN."""
    from strata import api
    from strata.cli import answers

    options: dict[str, Any] = {
        "prompt": prompt,
        "tokens": tokens,
        "min_tokens": min_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram": no_repeat_ngram,
        "beams": beams,
        "length_penalty": length_penalty,
        "contrastive": contrastive,
        "regex": regex,
        "stop": stop or None,
        "draft": draft,
        "draft_tokens": draft_tokens,
        "weights": weights,
        "number": number,
        "count": count,
        "seed": seed,
        "out": out,
    }
    options |= answers.typed(_only(split_settings(settings), *options))
    predictor = api.predictor(run)
    made = answers.make(predictor, run, options, as_json)
    if as_json:
        answer({"run": str(run)} | made)


@app.command()
def chat(run: RunArgument, settings: Settings = None) -> None:
    """Talk with a trained run: it answers line by line. /reset begins anew, /exit leaves, Ctrl-C stops an answer.

    Settings are those of generate: strata chat runs/gpt-1 temperature=0.5 tokens=100
    """
    from strata import api
    from strata.cli import answers
    from strata.cli.chat import talk
    from strata.predict.chat import Chat

    options = answers.typed(_only(split_settings(settings), *answers.FOR_TEXT))
    talk(Chat(api.predictor(run), **options), console(not sys.stdin.isatty()))


@app.command()
def export(
    run: RunArgument,
    settings: Settings = None,
    to: Annotated[str, typer.Option(help="huggingface (a folder) or torchvision (a .safetensors file).")] = "",
    out: Annotated[Path | None, typer.Option(help="Where it goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained model as other libraries read it: --to huggingface for transformers' from_pretrained."""
    from strata import api

    given = _only(split_settings(settings), "to", "out")
    to, where = given.get("to", to), given.get("out", out)
    if not to or not where:
        raise ConfigError("Say in whose layout and where: strata export RUN --to huggingface --out FOLDER.")
    written = api.export(run, to, Path(where).expanduser())
    console(as_json).print(f"Written   {written}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        answer({"run": str(run), "to": to, "out": str(written)})


@app.command()
def verify(
    recipe: Annotated[str, typer.Argument(help="A recipe's name.", metavar="RECIPE")],
    settings: Settings = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the result beside the recipe.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Keep it with the seeds that are recorded already.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Keep it in place of one of other settings.")] = False,
    note: Annotated[str, typer.Option(help="What a reader has to know to compare, kept with the result.")] = "",
) -> None:
    """Retrain a recipe with several seeds and compare with the published number: seeds=0,1,2."""
    from strata.cli import lists
    from strata.cli.progress import watching
    from strata.recipes import result_file
    from strata.verify import refuse_to_replace
    from strata.verify import verify as retrain

    given = split_settings(settings)
    seeds = lists.numbers(given.pop("seeds", "0,1,2"), "seeds")
    out = console(as_json)
    file = result_file(recipe, given.get("model", "")) if record or add or replace else None
    if file is not None and not (add or replace):
        refuse_to_replace(file, recipe, given)
    with stopping_well(as_json), watching(out) as observer:
        result = retrain(
            recipe, given, seeds=seeds, runs=runs.expanduser(), observers=[observer], note=note, record=file, add=add
        )
    lists.verified(out, result)
    if as_json:
        answer(result)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show all settings of this one.")] = None, as_json: AsJson = False
) -> None:
    """List the recipes, with the published number and ours beside it."""
    from strata.cli import lists

    lists.recipes(console(as_json), answer if as_json else None, name)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show sizes and settings of this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the architectures and their presets."""
    from strata.cli import lists

    lists.models(console(as_json), answer if as_json else None, name)


@app.command()
def data(
    path: Annotated[str | None, typer.Argument(help="Say what this name or path holds.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List the data that has a name, or say what a path holds and how it would be read."""
    from strata.cli import lists

    lists.data(console(as_json), answer if as_json else None, path, split_settings(settings))


@app.command()
def info(as_json: AsJson = False) -> None:
    """Say what hardware was found and what is decided because of it."""
    from strata.cli import lists

    lists.info(console(as_json), answer if as_json else None)


def _only(given: dict[str, str], *known: str) -> dict[str, str]:
    """Return settings whose keys are known. Raises ConfigError with the nearest right one for another."""
    from strata.errors import UnknownNameError

    for key in given:
        if key.replace("-", "_") not in known:
            raise UnknownNameError("setting", key, known)
    return {key.replace("-", "_"): value for key, value in given.items()}


def _settings_among(words: list[str], *known: str) -> tuple[dict[str, str], list[str]]:
    """Return the settings that stand among inputs as key=value, and the inputs; what is a path is none of them."""
    split = {word: word.partition("=") for word in words}
    given = {word for word, (key, sign, _) in split.items() if sign and key in known and not Path(word).exists()}
    inputs = [word for word in words if word not in given]
    if not inputs:
        raise ConfigError("Say what to answer: a picture, a folder, a table or a text.")
    return {split[word][0]: split[word][2] for word in given}, inputs


def command_line() -> str:
    """Return what was typed, as a shell would take it."""
    import shlex

    return shlex.join(["strata", *sys.argv[1:]])


@contextlib.contextmanager
def stopping_well(as_json: bool) -> Iterator[None]:
    """Turn a training's interruption into its message and exit code, 128 + the signal's number."""
    from strata.train.events import Interrupted

    try:
        yield
    except Interrupted as stopped:
        console(True).print(str(stopped), highlight=False, markup=False, soft_wrap=True)
        if as_json:
            answer({"run": str(stopped.folder), "interrupted": True, "steps": stopped.step})
        raise typer.Exit(128 + stopped.signal) from None


def main() -> None:
    """Run the command line and leave with its exit code: 2 for a user's error, 128 + n after signal n."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may be of bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except StrataError as error:
        refuse(str(error))
    except UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "strata"
        refuse(f"{error.format_message().rstrip('.')}. See: {where} --help")
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        refuse(f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}.")
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)


_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
"""What a full or forbidden disk says, wherever it is noticed; any other OSError that escapes is a bug of ours."""


def refuse(reason: str) -> NoReturn:
    """Say in one line why it cannot be done, and leave."""
    from rich.markup import escape

    console(True).print(f"[bold red]Error:[/] {escape(' '.join(reason.split()))}", highlight=False, soft_wrap=True)
    if "--json" in sys.argv:
        answer({"error": reason})
    sys.exit(2)
