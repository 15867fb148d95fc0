"""Raw inputs as people name them, and answers as people read them."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from strata.cli.main import plain
from strata.errors import ConfigError, DataError, RunError


def expand(inputs: Iterable[str], kind: str, columns: Sequence[str] = ()) -> Iterator[Any]:
    """Yield one raw input after another: folders give their pictures, tables their rows, a text file its text.

    For a model of short texts each line of a text file is one, and so is each record of a file of records. A file that
    cannot be read is `Unreadable`, and does not end a long job.

    Args:
        columns: of a table that the model reads.

    Raises DataError for a file or folder that is missing, before anything is read, and for a folder where a model
    reads texts.
    """
    from strata.data import TEXTUAL, images, pictures
    from strata.predict.run import Unreadable

    inputs = list(inputs)
    for word in inputs:
        if kind not in TEXTUAL and not Path(word).exists():
            raise DataError(f"There is no file or folder {word!r}.")
        if kind != "image" and is_folder(Path(word)):
            reads, ending = ("texts", "txt") if kind in TEXTUAL else ("tables", "csv")
            raise DataError(f"{word} is a folder, and this model reads {reads}. Give files: {Path(word)}/*.{ending}")
    for word in inputs:
        path = Path(word)
        if kind != "image":
            try:
                yield from _records(word, kind, columns)
            except DataError as error:
                yield Unreadable(word, str(error))
        else:
            if path.is_dir():
                found = images.pictures_in(path)
                if not found:
                    raise DataError(f"The folder {word} holds no pictures ({', '.join(sorted(pictures.EXTENSIONS))}).")
                yield from map(str, found)
            else:
                yield str(path)


def _records(word: str, kind: str, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the rows of a table, the text or the texts of a file, or the word itself where it is a text."""
    from strata.data import TEXTUAL, read_rows
    from strata.data.files import read_text

    path = Path(word)
    if kind not in TEXTUAL:
        yield from read_rows(path, columns)
    elif not is_file(path):
        yield word
    elif kind == "text":
        yield read_text(path)
    else:
        yield from _texts(path, kind)


def _texts(path: Path, kind: str) -> Iterator[Any]:
    """Yield the records of a file, its tagged sentences, or its lines."""
    from strata.data import questions, records, tags
    from strata.data.dataset import DataConfig
    from strata.data.files import read_text

    read = {"questions": questions.read_questions, "tags": tags.read_tagged}.get(kind, records.read_records)
    if records.extension_of(path) in records.EXTENSIONS or (kind == "tags" and tags.are_tagged_lines(path)):
        for part in read(path, DataConfig(source=str(path))).values():
            yield from part
    else:
        yield from (line for line in read_text(path).split("\n") if line.strip())


def is_file(path: Path) -> bool:
    """Say whether there is such a file; a text too long to be a path is none."""
    return _says(path.is_file)


def is_folder(path: Path) -> bool:
    """Say whether there is such a folder; a text too long to be a path is none."""
    return _says(path.is_dir)


def _says(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except (OSError, ValueError):
        return False


NAME_AT_MOST = 60
"""Characters of an input in a line on a terminal; elsewhere it is whole."""
_POSITIVE = {"class": "label", "class_probability": "probability", "threshold": "threshold", "found": "found"}
"""Columns that say whether the class to be found counts as found, and the answer's names for them."""


def show(
    found: Iterable[dict[str, Any]], *, top: int, as_json: bool, as_csv: bool, detects: bool = False
) -> tuple[int, int]:
    """Print answers as they come, none of them kept; return how many there were, and how many inputs were not read.

    Args:
        detects: answers say of one class whether it counts as found, for which CSV then has columns.

    JSON is one object on one line, ``{"predictions": [...], "failed": 0}``, written piece by piece. Where something
    raises in between, the line is ended as it is, so that what went wrong is a line of its own.
    """
    count = failed = 0
    table = csv.writer(sys.stdout) if as_csv and not as_json else None
    if table is not None:
        table.writerow(["input", "answer", "probability", *(_POSITIVE if detects else ())])
    room = NAME_AT_MOST if sys.stdout.isatty() else None
    try:
        for item in found:
            count += 1
            failed += "error" in item
            if "top" in item:
                item = item | {"top": item["top"][:top]}
            name = item.get("input", f"row {count}")
            rows = list(_rows(item, top))
            if as_json:
                sys.stdout.write('{"predictions": [' if count == 1 else ", ")
                sys.stdout.write(json.dumps(plain({"input": name} | item), ensure_ascii=False, allow_nan=False))
            elif table is not None:
                positive = item.get("positive", {})
                more = [positive.get(name, "") for name in _POSITIVE.values()] if detects else []
                table.writerows([name, *row, *more] for row in rows)
            else:
                words = ", ".join(f"{text} {p:.1%}" if isinstance(p, float) else text for text, p in rows)
                sys.stdout.write(f"{_shortened(' '.join(name.split()), room)}: {words}{_positive(item)}\n")
    except BaseException:
        if as_json and count:
            sys.stdout.write("\n")
        raise
    if as_json:
        sys.stdout.write(("" if count else '{"predictions": [') + f'], "failed": {failed}}}\n')
    return count, failed


def _shortened(name: str, room: int | None) -> str:
    """Return an input's name in so many characters: of a file the end, which tells it from others, else the start."""
    if room is None or len(name) <= room:
        return name
    return "…" + name[1 - room :] if is_file(Path(name)) else name[: room - 1] + "…"


def _positive(item: dict[str, Any]) -> str:
    """Say whether the class to be found counts as found, which the likeliest label may contradict."""
    if "positive" not in item:
        return ""
    one = item["positive"]
    verb = "found" if one["found"] else "not found"
    return f"; {one['label']} {verb} ({one['probability']:.1%}, from {one['threshold']:.1%})"


def write_pictures(found: Iterable[dict[str, Any]], out: Path | None, run: Path) -> Iterator[dict[str, Any]]:
    """Yield answers; of those that are pictures write each as PNG, and yield where it is.

    Args:
        out: the folder to write them to, in which nothing is overwritten; ``predictions`` in the run's where None.

    Raises ConfigError where a folder is given for answers that are no pictures.
    """
    folder = out or run / "predictions"
    taken: set[str] = set()
    for number, item in enumerate(found):
        if "picture" in item:
            stem = Path(item["input"]).stem if "input" in item else f"{number + 1}"
            name, again = stem, 1
            while name in taken or (out is not None and (folder / f"{name}.png").exists()):
                name, again = f"{stem}-{again + 1}", again + 1
            taken.add(name)
            item = {key: value for key, value in item.items() if key != "picture"} | {
                "file": _save(item["picture"], folder / f"{name}.png")
            }
        elif out is not None and "error" not in item:
            raise ConfigError(f"--out={out} is for pictures, and this model's answers are none. Leave it out.")
        yield item


def _save(picture: Any, path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    return str(path)


def _rows(item: dict[str, Any], top: int) -> Iterator[tuple[str, Any]]:
    if "error" in item:
        yield f"not read: {item['error']}", ""
    elif "top" in item:
        yield from ((entry["label"], entry["probability"]) for entry in item["top"])
    elif "file" in item:
        yield item["file"], ""
    elif "masks" in item:
        yield from ((entry["text"], entry["probability"]) for likeliest in item["masks"] for entry in likeliest[:top])
    elif "text" in item:
        yield item["text"], ""
    elif "answer" in item:
        yield item["answer"] or "(no answer)", item.get("probability", "")
    elif "entities" in item:
        spans = [(f"{span['text']} ({span['type']})", span["probability"]) for span in item["entities"]]
        yield from spans or [("(none)", "")]
    elif "tags" in item:
        yield " ".join(f"{word['text']}/{word['tag']}" for word in item["tags"]), ""
    elif "vector" in item:
        first = ", ".join(f"{number:.4f}" for number in item["vector"][:4])
        yield f"{len(item['vector'])} numbers: {first}, ... (--json gives all)", ""
    elif "value" in item:
        yield f"{item['value']:.6g}", ""
    elif "next" in item:
        yield from ((repr(entry["text"]), entry["probability"]) for entry in item["next"][: max(top, 1)])


FOR_TEXT: dict[str, Any] = {
    "tokens": int,
    "min_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "no_repeat_ngram": int,
    "beams": int,
    "length_penalty": float,
    "contrastive": float,
    "regex": str,
    "stop": str,
    "draft": Path,
    "draft_tokens": int,
    "weights": str,
    "number": int,
    "seed": int,
}
"""Options of `generate` that say how a text is written, and what turns what was typed into their type."""


def typed(given: dict[str, str]) -> dict[str, Any]:
    """Turn key=value words of `generate` into the types of its options."""
    found: dict[str, Any] = {}
    for key, text in given.items():
        try:
            found[key] = ({**FOR_TEXT, "count": int, "out": Path, "prompt": str})[key](text)
        except ValueError:
            raise ConfigError(f"{key}={text} is not allowed: it has to be a number.") from None
    return found


def make(predictor: Any, run: Path, options: dict[str, Any], as_json: bool) -> dict[str, Any]:
    """Let a model make something; print the text as it comes, or write the pictures and say where."""
    from strata.predict.run import save_grid

    out: Path | None = options.pop("out")
    if options["count"] < 1 or options["tokens"] < 1:
        raise ConfigError("count and tokens have to be at least 1.")
    options = {name: value for name, value in options.items() if value is not None}
    if predictor.preprocess.kind == "text":
        options.pop("count")
        return _make_text(predictor, options, out, as_json)
    without = [name for name in options if name in FOR_TEXT and name not in ("tokens", "seed")]
    if without:
        sys.stderr.write(f"No effect where pictures are made: {', '.join(without)}.\n")
    sample = predictor.generate(count=options["count"], seed=options["seed"])
    path = out if out is not None else next_free(run / "samples")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"out={path} is not allowed: pictures are written as .png.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_grid(sample.images, path)
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    if not as_json:
        sys.stdout.write(f"{len(sample.images)} pictures in {path}\n")
    return {"file": str(path), "count": len(sample.images)}


def _make_text(predictor: Any, options: dict[str, Any], out: Path | None, as_json: bool) -> dict[str, Any]:
    """Let a model write; print one text as it comes, and several at the end, each below its number."""
    from strata.checkpoint.files import write_text

    if options.get("number", 1) == 1 and not as_json and out is None:
        written = ""

        def stream(piece: str) -> None:
            nonlocal written
            sys.stdout.write(piece if written else options.get("prompt", "") + piece)
            sys.stdout.flush()
            written += piece

        options["stream"] = stream
    sample = predictor.generate(**options)
    texts = [sample.text] if sample.texts is None else sample.texts
    several = "\n".join(f"--- {number}\n{text}" for number, text in enumerate(texts, 1))
    shown = texts[0] if len(texts) == 1 else several
    if out is not None:
        write_text(out, shown)
        sys.stderr.write(f"Written to {out}\n")
    elif not as_json:
        sys.stdout.write("\n" if "stream" in options and written else shown + "\n")
    return {"text": texts[0]} if len(texts) == 1 else {"texts": texts}


def next_free(folder: Path) -> Path:
    """Return the first ``generated-N.png`` that does not exist yet."""
    number = 1
    while (folder / f"generated-{number}.png").exists():
        number += 1
    return folder / f"generated-{number}.png"
