"""Tokens per second of GPT-2 124M writing text: Strata in fp32, bf16 and int8 against transformers' `generate`.

    python benchmarks/generation_speed.py [--batch-size 1] [--batch-size 8] [--tokens 64] [--threads 2]

Random weights of that shape, the same random prompt for all, greedy. Theirs is run as it comes (fp32) and in bf16 with
a static cache; ours as `strata generate` runs it. The ratios are of whole texts, the reading of the prompt among them.

A token takes at least as long as its bytes take to come from memory: the weights once (the token embedding is the
output layer), and the cache. How fast the same threads read memory is measured before and after, and the share of that
bound is told: of the steps after the prompt, which is read all at once and is bound by arithmetic.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rounds
import torch

from strata import models
from strata.device import decide
from strata.predict.decode import for_tokens
from strata.predict.packed import Matrix, kernels
from strata.tasks.decoding import Decoding
from strata.tasks.writing import Language, begin

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
BARS = {"bf16": 2.2, "int8": 4.0}
"""Times as fast as the other side's default, at batch 1."""
SHARE = 0.75
"""Of the bound, at batch 1 with narrow weights."""
READ_MIB = 512


def read_bandwidth(repeats: int = 5) -> float:
    """Return the bytes per second at which the threads together read memory that is in no cache, by the faster way.

    Torch reads one stream a thread; the kernel reads eight, which some processors read faster.
    """
    numbers = torch.ones(READ_MIB * 2**8, 1024)
    vector, found = torch.ones(1024), torch.empty(len(numbers))
    matrix, kernel = Matrix.of(numbers, None), kernels()
    ways: list[Callable[[], Any]] = [lambda: torch.mv(numbers, vector)]
    if not isinstance(kernel, str):
        threads = torch.get_num_threads()
        ways.append(lambda: kernel.product(ctypes.byref(matrix), vector.data_ptr(), found.data_ptr(), 1, threads))
    best = float("inf")
    for _ in range(repeats):
        for way in ways:
            began = time.perf_counter()
            way()
            best = min(best, time.perf_counter() - began)
    return numbers.numel() * 4 / best


def main(arguments: Sequence[str] | None = None) -> list[rounds.Measurement]:
    """Measure, print and log, each batch size by itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rounds.add_arguments(parser, rounds=5)
    parser.add_argument("--threads", type=int, help="of torch (default: torch's own choice)")
    parser.add_argument("--batch-size", type=int, action="append", help="may be repeated (default 1 and 8)")
    parser.add_argument("--tokens", type=int, help="that are written (default 64)")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the prompt (default 32)")
    options = parser.parse_args(arguments)
    rounds.settle(options)
    return [measure(options, batch_size) for batch_size in options.batch_size or (1, 8)]


def measure(options: argparse.Namespace, batch_size: int) -> rounds.Measurement:
    """Compare all sides at one batch size."""
    import transformers

    quick, length = options.quick, options.prompt
    tokens = options.tokens or (4 if quick else 64)
    config = models.preset("gpt2")
    theirs_config = transformers.GPT2Config(bos_token_id=None, eos_token_id=None)
    if quick:
        config = type(config)(num_layers=2, num_heads=2, width=64, context=64, vocab_size=999)
        theirs_config = transformers.GPT2Config(
            n_layer=2, n_head=2, n_embd=64, n_positions=64, vocab_size=999, bos_token_id=None, eos_token_id=None
        )
    torch.manual_seed(0)
    prompt_BT = torch.randint(0, config.vocab_size, (batch_size, length))
    model = models.build(config).eval()
    setup = decide(device="cpu", precision="fp32", model=model)
    ours = {name: for_tokens(model, name, setup) for name in BYTES}
    steps: dict[str, list[float]] = {name: [] for name in BYTES}
    theirs = transformers.GPT2LMHeadModel(theirs_config).eval()
    language = Language(preprocess=None)
    settings = Decoding(tokens=tokens, temperature=0.0)

    found = rounds.Measurement(f"generation_speed-batch{batch_size}", "tokens per second", True, quick=quick)
    found.settings = {
        "batch_size": batch_size,
        "prompt": length,
        "tokens": tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
        "strata": str(kernels()) if isinstance(kernels(), str) else "compiled kernel",
        "transformers": f"{transformers.__version__}, fp32, its own cache, greedy",
        "transformers, bf16": "weights and activations in bf16, static cache, greedy",
    }

    def rate(run: Callable[[], Any]) -> float:
        began = time.perf_counter()
        run()
        return batch_size * tokens / (time.perf_counter() - began)

    def strata(name: str, number: int) -> float:
        def run() -> None:
            with torch.inference_mode():
                texts, writing = begin(ours[name], prompt_BT.tolist(), settings, language, device=torch.device("cpu"))
                next(writing)  # reads the prompt
                began = time.perf_counter()
                for _ in writing:
                    pass
            if number >= 0:
                steps[name].append(batch_size * (tokens - 1) / (time.perf_counter() - began))
            assert all(len(text.path.tokens) == tokens for several in texts for text in several)

        return rate(run)

    def transformers_(**given: Any) -> float:
        mask_BT = torch.ones_like(prompt_BT)

        def run() -> None:
            made = theirs.generate(
                prompt_BT,
                attention_mask=mask_BT,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                **given,
            )
            assert made.shape == (batch_size, length + tokens)

        return rate(run)

    def in_bf16(number: int) -> float:
        theirs.to(torch.bfloat16)
        try:
            return transformers_(cache_implementation="static")
        finally:
            theirs.float()

    before = read_bandwidth()
    sides: dict[str, Callable[[int], float]] = {
        f"strata, {name}": lambda number, name=name: strata(name, number) for name in BYTES
    }
    sides |= {"transformers": lambda number: transformers_(), "transformers, bf16": in_bf16}
    for side in sides.values():
        side(-1)  # nobody pays for first calls
    found.alternate(sides, options.rounds)
    bandwidth = max(before, read_bandwidth())
    ratios = {name: found.compare(f"strata, {name}", "transformers", f"{name} against its default") for name in BYTES}
    found.compare("strata, bf16", "transformers, bf16", "both in bf16")
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    cached = batch_size * 2 * config.num_layers * config.width * (length + tokens / 2) * 4
    details: dict[str, Any] = {"read_bandwidth_bytes_per_second": bandwidth, "cache_bytes_per_step": cached}
    for name, size in BYTES.items():
        bound = batch_size * bandwidth / (weights * size + cached)
        reached = statistics.median(steps[name])
        details[name] = {"bound_tokens_per_second": bound, "share": reached / bound, "steps": steps[name]}
        rounds.say(
            f"{name}: memory at {bandwidth / 1e9:.1f} GB/s allows {bound:.0f} tokens/s; the steps after the prompt "
            f"made {reached:.0f}, {reached / bound:.0%} of it"
        )
        if batch_size == 1 and name in BARS and not quick:
            for what, value, bar in (("speed", ratios[name], BARS[name]), ("share", reached / bound, SHARE)):
                word = "reached" if value >= bar else "missed"
                found.notes.append(f"{name}, {what}: the bar is {bar:.2f}, {word} with {value:.2f}")
    found.details = details
    found.show()
    found.write(options.logs)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
