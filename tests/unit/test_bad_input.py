"""Bad input gets one clear line, exit code 2, and loses nothing: the whole list, through the real command line."""

from __future__ import annotations

import json
import pickle
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from strata.checkpoint import store

Command = Callable[..., Any]
QUICK = ("train.steps=4", "train.batch_size=8", "train.early_stopping=none", "train.device=cpu")
NET = ("model=resnet20", "model.depths=1", "model.width=4")


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(shade).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)


def photos(root: Path, of_each: int, names: tuple[str, ...] = ("cat", "dog")) -> None:
    for name in names:
        for k in range(of_each):
            picture(root / name / f"{k}.png", k)


def bomb(path: Path) -> None:
    """Write a small file that claims to be a picture of 60,000 by 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def table(rows: list[str]) -> None:
    Path("t.csv").write_text("\n".join(rows))


def nothing() -> None:
    pass


def empty_folder() -> None:
    Path("data").mkdir()


def class_with_one_image() -> None:
    photos(Path("data"), 6)
    picture(Path("data/fox/0.png"))


def one_class() -> None:
    photos(Path("data"), 6, ("cat",))


def many_bad_images() -> None:
    photos(Path("data"), 20)
    Path("data/cat/3.png").write_bytes(b"no picture")
    Path("data/dog/5.png").write_bytes(Path("data/dog/5.png").read_bytes()[:40])


def csv_without_target() -> None:
    table(["a,b", *(f"{k},{k % 2}" for k in range(30))])


def constant_target() -> None:
    table(["a,target", *(f"{k},same" for k in range(30))])


def constant_number() -> None:
    table(["a,target", *(f"{k},1.5" for k in range(30))])


def nan_in_target() -> None:
    table(["a,target", *(f"{k},{'nan' if k == 7 else k * 0.5}" for k in range(60))])


def empty_target() -> None:
    table(["a,target", *(f"{k},{'' if k == 7 else 'xy'[k % 2]}" for k in range(30))])


def ragged() -> None:
    table(["a,target", "1,x", "2,y,3", "4,x"])


def latin1_text() -> None:
    Path("t.txt").write_bytes("größe und weiß\n".encode("latin-1") * 500)


def short_text() -> None:
    Path("t.txt").write_text("too short")


def text_with_short_validation() -> None:
    Path("t.txt").write_text("abc def\n" * 200)


def pickled() -> None:
    Path("data.pkl").write_bytes(pickle.dumps({"x": [1]}))


def pickle_in_disguise() -> None:
    Path("data.bin").write_bytes(pickle.dumps(list(range(100))))


def pickled_array() -> None:
    np.savez("data.npz", x=np.array([{"a": 1}], dtype=object), y=np.arange(1))


def no_data_in_folder() -> None:
    Path("data").mkdir()
    Path("data/x.exe").write_bytes(b"\0\1\2" * 100)


BAD = [
    (nothing, ("train", "./photos"), "There is nothing at ./photos."),
    (nothing, ("train", "resnet", "data=./photos"), "./photos does not exist."),
    (nothing, ("train", "resnet", "data=photos"), "'photos' is neither a path that exists nor a known data set."),
    (empty_folder, ("train", "data"), "data is an empty folder."),
    (no_data_in_folder, ("train", "data"), "data holds nothing that is understood, but 1 .exe."),
    (class_with_one_image, ("train", "data"), "Class with fewer than two pictures in data: 'fox' (1)."),
    (one_class, ("train", "data"), "has only one class folder, 'cat': at least two are needed"),
    (many_bad_images, ("train", "data"), "2 of 40 pictures in data cannot be read, more than 1 %: cat/3.png"),
    (csv_without_target, ("train", "t.csv"), "Give data.target=COLUMN, one of: a, b."),
    (csv_without_target, ("train", "t.csv", "data.target=c"), "has no column 'c' (data.target)."),
    (constant_target, ("train", "t.csv"), "same"),
    (constant_number, ("train", "t.csv"), "constant"),
    (nan_in_target, ("train", "t.csv"), "has no value (NaN or empty) in row 8 (line 9)"),
    (empty_target, ("train", "t.csv"), "has no value (NaN or empty) in row 8 (line 9)"),
    (ragged, ("train", "t.csv"), "line 3 has 3 values"),
    (latin1_text, ("train", "t.txt"), "t.txt is not UTF-8 text: byte 2 is 0xf6."),
    (short_text, ("train", "t.txt"), "fewer than the 129 of one context"),
    (text_with_short_validation, ("train", "t.txt"), "The validation text has 80 tokens, fewer than the 129"),
    (pickled, ("train", "data.pkl"), "data.pkl is a pickle, and a pickle can run any code when it is read."),
    (pickle_in_disguise, ("train", "data.bin"), "data.bin is a pickle"),
    (pickled_array, ("train", "data.npz"), "pickle"),
    (nothing, ("train", "resnt"), "Did you mean 'resnet'?"),
    (nothing, ("train", "digits", "model=resnt18"), "Unknown model 'resnt18'. Did you mean 'resnet18'?"),
    (nothing, ("train", "digits", "train.epoch=1"), "Did you mean 'train.epochs'?"),
    (
        nothing,
        ("train", "digits", "train.epochs=many"),
        "train.epochs=many is not allowed: it has to be a valid number",
    ),
    (nothing, ("train", "digits", "train.epochs=inf"), "train.epochs=inf is not allowed: it has to be finite."),
    (nothing, ("train", "digits", "train.device=cuda:77"), "train.device=cuda:77: this machine has "),
    (nothing, ("train", "digits", "data.validation=1.5"), "data.validation=1.5 is not allowed"),
    (nothing, ("train", "digits", "data.test=./none"), "data.test=./none does not exist."),
    (nothing, ("train", "digits", "name=a/b"), "name=a/b is not allowed"),
    (nothing, ("train", "resnet", "data=iris"), "Model 'resnet' cannot take data of kind 'table'."),
    (nothing, ("train", "gpt", "model.width=30", "data.limit=5000"), "width=30 cannot be split among num_heads=4."),
    (empty_folder, ("resume", "data"), "data is not a run: it holds no recipe.json."),
    (empty_folder, ("evaluate", "data"), "data is not a run: it holds no recipe.json."),
    (empty_folder, ("predict", "data", "x.png"), "data is not a run: it holds no recipe.json."),
    (empty_folder, ("generate", "data"), "data is not a run: it holds no recipe.json."),
]


@pytest.mark.parametrize(("prepare", "words", "said"), BAD, ids=[f"{p.__name__} {' '.join(w)}" for p, w, _ in BAD])
def test_bad_input_gets_one_line_and_leaves_no_run(
    prepare: Callable[[], None], words: tuple[str, ...], said: str, strata_command: Command
) -> None:
    prepare()
    found = strata_command(*words, "--json")
    assert said in found.refusal
    assert said in found.answer["error"]
    assert not Path("runs").exists() or not [*Path("runs").iterdir()]


def test_a_bad_picture_is_skipped_counted_and_named(strata_command: Command) -> None:
    photos(Path("data"), 150)
    Path("data/cat/7.png").write_bytes(Path("data/cat/7.png").read_bytes()[:40])
    bomb(Path("data/dog/9.png"))
    done = strata_command("train", "data", *NET, *QUICK, "--json")
    assert done.code == 0, done.err
    log = Path("runs/resnet-1/log.txt").read_text()
    assert "cat/7.png" in log and "dog/9.png" in log and "2" in log
    found = strata_command("predict", "runs/resnet-1", "data/dog/9.png", "data/cat/1.png")
    assert found.code == 2 and "data/dog/9.png: not read: " in found.out and "data/cat/1.png: " in found.out
    assert found.refusal == "Error: 1 of 2 inputs could not be read and was skipped."


def test_a_run_that_is_not_finished_or_not_whole_is_refused_in_one_line(strata_command: Command) -> None:
    assert strata_command("train", "iris", *QUICK, "train.save_every=2").code == 0
    run = Path("runs/iris-1")
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    (run / "model" / "config.json").unlink()
    assert (
        "has not finished. Continue it with: strata resume runs/iris-1"
        in strata_command("predict", str(run), "x").refusal
    )
    (run / "model" / "config.json").write_bytes(whole[run / "model" / "config.json"])
    (run / "model" / "model.safetensors").write_bytes(b"\x80\x04pickle")
    assert "It is damaged, or not a safetensors file." in strata_command("evaluate", str(run)).refusal
    (run / "recipe.json").write_text("{")
    assert "Cannot read runs/iris-1/recipe.json" in strata_command("resume", str(run)).refusal
    (run / "recipe.json").write_bytes(whole[run / "recipe.json"].replace(b'"iris"', b'"nothing"'))
    assert "'nothing' is neither a path that exists" in strata_command("resume", str(run), "train.steps=9").refusal
    (run / "recipe.json").write_bytes(whole[run / "recipe.json"])
    for step in (2, 4):
        state = run / "checkpoints" / f"step-{step}" / "state.safetensors"
        state.write_bytes(whole[state][:-1] + b"\0")
    refusal = strata_command("resume", str(run), "train.steps=9", "--json").refusal
    assert "No checkpoint in runs/iris-1/checkpoints verifies" in refusal and "step-2" in refusal


def test_a_run_still_being_written_is_refused_in_one_line(strata_command: Command) -> None:
    from strata.checkpoint.run_folder import RunFolder

    strata_command("train", "iris", *QUICK)
    writer = RunFolder("runs/iris-1")
    writer.lock()
    try:
        refusal = strata_command("resume", "runs/iris-1", "train.steps=9").refusal
        assert "runs/iris-1 is still being written by another process" in refusal
    finally:
        writer.unlock()


def test_a_checkpoint_with_a_flipped_byte_is_passed_over_aloud(strata_command: Command) -> None:
    whole = strata_command("train", "iris", *QUICK, "train.steps=8", "name=whole", "--json")
    strata_command("train", "iris", *QUICK, "train.save_every=2", "train.schedule=cosine", "train.steps=8", "--json")
    run = Path("runs/iris-1")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records if r["event"] != "finished"))
    newest = run / "checkpoints" / "step-8" / "state.json"
    newest.write_bytes(newest.read_bytes().replace(b"8", b"9", 1))
    done = strata_command("resume", str(run), "--json")
    assert done.code == 0 and "Warning: Checkpoint step-8 is damaged" in done.err
    assert "the one before it is used" in done.err
    assert done.answer["metrics"] == whole.answer["metrics"]


@pytest.mark.parametrize("left", ["checkpoint", "nothing"])
def test_a_full_disk_ends_the_run_in_one_line_and_the_last_checkpoint_resumes(left: str, tmp_path: Path) -> None:
    # A file may be no larger than so many bytes: what a full disk says, at the second checkpoint, or at the next line.
    script = f"""
import resource, sys
from strata.cli import main
from strata.train import events, history
describe = history.describe
def full(event):
    if isinstance(event, events.Saved) and event.step == 5:
        limit = {"20_000" if left == "checkpoint" else "1"}
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return describe(event)
history.describe = full
sys.argv = ["strata", "train", "mlp", "data=digits", "train.steps=15", "train.save_every=5", "train.device=cpu",
            "train.log_every=5", "train.evaluate_every=5", "train.early_stopping=none", "--json"]
main.main()
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and done.stderr.splitlines()[-1] == errors[0]
    assert "File too large" in errors[0] and "runs/mlp-1" in errors[0]
    if left == "checkpoint":
        assert "Checkpoint step-10 could not be written" in errors[0] and "The last good one is step-5." in errors[0]
    assert "error" in json.loads(done.stdout.splitlines()[-1])
    run = tmp_path / "runs" / "mlp-1"
    assert store.steps(run / "checkpoints") == [5] and store.verify(run / "checkpoints" / "step-5") is None

    import strata

    resumed = strata.resume(run)
    assert resumed.finished is not None and resumed.finished["step"] == 15
