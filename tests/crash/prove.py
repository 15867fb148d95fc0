"""Kill training with SIGKILL again and again; the run resumed each time has to end with the same bits.

    python tests/crash/prove.py --kills 20

For each of four families, a run with accumulation, moving average, dropout, augmentation and bf16 on is trained once
in peace. Then the same run is started, killed at a random moment, resumed, killed again, ...; every second kill waits
for a checkpoint to be half-written. Each run that gets to its end is compared with the peaceful one, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

COMMON = ("train.accumulate=2", "train.ema=0.98", "train.precision=bf16", "train.clip=1", "train.evaluate_every=20")
FAMILIES = {
    "classifier": (
        "digits",
        "model=resnet20",
        "model.width=8",
        "model.depths=1,1,1",
        "model.dropout=0.2",
        "data.augment.rotate=15",
        "data.augment.crop=1",
        "data.augment.noise=0.05",
        "data.augment.mixup=0.2",
        "train.optimizer=muon",
        "train.learning_rate=0.01",
        "train.batch_size=16",
    ),
    "gpt": (
        "gpt",
        "model.num_layers=2",
        "model.width=32",
        "model.num_heads=2",
        "model.context=32",
        "model.dropout=0.1",
        "data.limit=20000",
        "train.batch_size=4",
    ),
    "lstm": (
        "char-lstm",
        "data=pycode",
        "model.width=24",
        "model.embedding_width=16",
        "model.context=16",
        "model.weight_drop=0.2",
        "model.locked_dropout=true",
        "data.limit=20000",
        "train.batch_size=4",
    ),
    "gan": (
        "dcgan",
        "data=digits",
        "model.width=8",
        "data.augment.flip=0.5",
        "data.augment.translate=0.1",
        "train.batch_size=16",
    ),
}


@dataclass
class Proof:
    """What a family's trial found."""

    kills: int = 0
    kills_in_write: int = 0
    runs: int = 0
    identical: int = 0
    digest: str = ""

    @property
    def holds(self) -> bool:
        """At least one run was killed, resumed to its end, and every one that ended is identical."""
        return self.runs > 0 and self.identical == self.runs


def prove(family: str, *, kills: int, steps: int, save_every: int, seed: int, folder: Path) -> Proof:
    """Try one family in ``folder``; kills and moments follow ``seed``."""
    chance = random.Random(f"{family} {seed}")
    recipe, *settings = (*FAMILIES[family], *COMMON, f"train.steps={steps}", f"train.save_every={save_every}")
    train = ["train", recipe, "name=trial", *settings]
    reference = folder / "peace"
    began = time.monotonic()
    _start(train, reference).wait()
    whole = time.monotonic() - began
    proof = Proof(digest=weights(reference))
    trial = folder / "trial"
    while proof.kills < kills or (trial / "runs").exists():
        started = (trial / "runs" / "trial-1" / "recipe.json").exists()
        process = _start(["resume", "runs/trial-1"] if started else train, trial)
        if proof.kills < kills:
            in_write = proof.kills % 2 == 1
            killed = _kill(process, trial, chance, in_write, whole)
            proof.kills += killed
            proof.kills_in_write += killed and in_write
            if killed:
                continue
        if process.wait() != 0:
            raise RuntimeError(f"{family}: a resumed run failed:\n{(trial / 'output.txt').read_text()[-3000:]}")
        proof.runs += 1
        proof.identical += weights(trial) == proof.digest
        shutil.rmtree(trial)
    return proof


def _start(words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    if words[0] == "train":
        shutil.rmtree(folder / "runs", ignore_errors=True)
    with (folder / "output.txt").open("wb") as output:
        command = [sys.executable, "-m", "strata", *words]
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)


def _kill(process: subprocess.Popen[bytes], folder: Path, chance: random.Random, in_write: bool, whole: float) -> bool:
    """Kill at a random moment, or inside a random one of the checkpoint writes; say whether it was still running."""
    checkpoints = folder / "runs" / "trial-1" / "checkpoints"
    deadline = time.monotonic() + (10 * whole + 60 if in_write else chance.uniform(0.3 * whole, 1.2 * whole))
    writes_to_let_pass, was_writing = chance.randrange(3), False
    while process.poll() is None and time.monotonic() < deadline:
        if in_write:
            writing = checkpoints.exists() and any(p.name.startswith(".writing") for p in checkpoints.iterdir())
            if writing and not was_writing:
                if writes_to_let_pass == 0:
                    break
                writes_to_let_pass -= 1
            was_writing = writing
        time.sleep(0.0005 if in_write else 0.005)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def weights(folder: Path) -> str:
    """Return the digest of a run's final weights."""
    found = list(folder.glob("runs/*/model/model.safetensors"))
    if len(found) != 1:
        raise RuntimeError(f"{folder} holds {len(found)} final models:\n{(folder / 'output.txt').read_text()[-3000:]}")
    return hashlib.sha256(found[0].read_bytes()).hexdigest()


def main() -> None:
    """Prove it for the families named, or all; exit with 1 where it does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=[*FAMILIES])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-every", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    held = True
    for family in arguments.families:
        with tempfile.TemporaryDirectory() as folder:
            proof = prove(
                family,
                kills=arguments.kills,
                steps=arguments.steps,
                save_every=arguments.save_every,
                seed=arguments.seed,
                folder=Path(folder),
            )
        held = held and proof.holds
        print(json.dumps({"family": family, **vars(proof), "holds": proof.holds}), flush=True)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
