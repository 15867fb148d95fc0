"""Tokens per second that a BERT encodes: ours against the one of transformers, in one run.

    python benchmarks/encode_speed.py [--model bert_base] [--device cuda] [--batch-size 8] [--length 128]

Both sides have the same sizes, random weights and the same random tokens in memory, with no padding, and give the last
hidden states. Theirs is run as it comes (fp32, eager) and at its best: in bf16 where the hardware multiplies it,
compiled on a GPU. Ours is run as `strata predict` runs it, and on a CPU also as `strata predict --precision int8` does;
by how much that changes the hidden states is told beside it. With --peak the share of the measured matrix peak is told
too. Where the hardware does not multiply bf16, both sides compute the same products in fp32: what is left between them
is overhead, and the log says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import rounds
import torch
from torch import nn
from transformers_speed import count_flops, in_int8, tell_share_of_peak

from strata import models
from strata.device import decide, multiplies_bf16
from strata.predict.ready import ready
from strata.weights.bert import config_to

MODELS = ("bert_tiny", "bert_base", "bert_large", "roberta_base", "distilbert_base", "minilm_l6")


def theirs(name: str) -> nn.Module:
    """Return the model of transformers, of the same sizes, with random weights; nothing of it reads more than ours."""
    import transformers

    settings = config_to(models.preset(name))
    config = transformers.AutoConfig.for_model(**settings)
    pooler = {} if settings["model_type"] == "distilbert" else {"add_pooling_layer": False}
    kind: type[nn.Module] = getattr(transformers, settings["architectures"][0])
    return kind(config, **pooler)


def main(arguments: Sequence[str] | None = None) -> rounds.Measurement:
    """Measure, print and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=5)
    rounds.add_training_arguments(parser)
    parser.add_argument("--model", choices=MODELS, help="default bert_base, quick bert_tiny")
    parser.add_argument("--batch-size", type=int, help="default 8, on cuda 128")
    parser.add_argument("--length", type=int, help="tokens of each text (default 128)")
    parser.add_argument("--steps", type=int, help="timed steps of each side in a round (default 8, on cuda 50)")
    parser.add_argument("--peak", action="store_true", help="measure the matrix peak, and tell the share of it")
    options = parser.parse_args(arguments)
    rounds.settle(options)
    on_gpu = options.device == "cuda"
    name = options.model or ("bert_tiny" if options.quick else "bert_base")
    batch_size = options.batch_size or (2 if options.quick else 128 if on_gpu else 8)
    length = options.length or (8 if options.quick else 128)
    steps = options.steps or (1 if options.quick else 50 if on_gpu else 8)
    warmup = 1 if options.quick else 15 if on_gpu else 3
    bf16, reason = multiplies_bf16(torch.device(options.device))

    found = rounds.Measurement("encode_speed", "tokens per second", True, device=options.device, quick=options.quick)
    found.settings = {
        "model": name,
        "batch_size": batch_size,
        "length": length,
        "timed_steps": steps,
        "warmup_steps": warmup,
    }
    if not bf16:
        found.notes.append(f"{reason}; both sides computed in fp32, so the gain of bf16 is not in these figures")

    def timed(step: Callable[[], None]) -> float:
        per_second = rounds.steps_per_second(step, warmup=warmup, steps=steps, device=options.device)
        return batch_size * length * per_second

    def tokens() -> torch.Tensor:
        return torch.randint(1000, models.preset(name).vocab_size, (batch_size, length), device=options.device)

    def our_encoding(number: int) -> float:
        model = models.build(models.preset(name)).eval()
        setup = decide(device=options.device, model=model, steps=1)
        token_BT = tokens()
        fast = ready(setup.place(model), setup, token_BT[:1])
        found.settings["strata"] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "decisions": {d.name: f"{d.value}: {d.reason}" for d in setup.decisions},
        }

        @torch.inference_mode()
        def step() -> None:
            with setup.autocast():
                fast(token_BT)

        return timed(step)

    def our_bytes(number: int) -> float:
        model, token_BT = models.build(models.preset(name)).eval(), tokens()
        fast = in_int8(found, model)

        @torch.inference_mode()
        def step() -> None:
            fast(token_BT)

        with torch.inference_mode():
            exact = model(token_BT)
            found.details["int8 changes"] = float((fast(token_BT) - exact).norm() / exact.norm())
        return timed(step)

    def their_encoding(best: bool) -> float:
        model, token_BT = theirs(name).eval().to(options.device), tokens()
        found.settings["transformers"] = {"parameters": sum(p.numel() for p in model.parameters())}
        if best:
            if bf16:
                model = model.to(torch.bfloat16)
            if on_gpu:
                model.compile()

        @torch.inference_mode()
        def step() -> None:
            model(token_BT)

        return timed(step)

    sides = {
        "strata": our_encoding,
        **({} if on_gpu else {"strata, int8": our_bytes}),
        "transformers": lambda number: their_encoding(False),
        "transformers, best": lambda number: their_encoding(True),
    }
    found.alternate(sides, options.rounds)
    found.compare("strata", "transformers", "both at their defaults")
    found.compare("strata", "transformers, best", "both at their best")
    if not on_gpu:
        found.compare("strata, int8", "transformers", "int8 against its default")
        rounds.say(f"int8 changes the hidden states by {found.details['int8 changes']:.1%} of their size")
    if options.peak:
        text = torch.zeros(1, length, dtype=torch.int64, device="meta")
        tell_share_of_peak(found, count_flops(name, text) / length, "token")
    found.show()
    found.write(options.logs)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
