"""Every hardware choice, decided once, each with its reason: device, precision, memory format, compile, threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from strata.errors import UnavailableError
from strata.kernels import cpu_flags, depthwise, sampled, widest, winograd

COMPILE_PAYS_AFTER_STEPS = 2000
"""A GPU run at least this long earns back the seconds that compiling takes."""


BF16_PAYS_FROM_WEIGHTS = 500_000
"""On a CPU, with fewer weights in its linear layers a model loses more in casting than its products gain: bf16 was 1.3
times slower than fp32 for a perceptron of 268 thousand, as fast for a GPT of 197 thousand, and 1.4 times faster for a
GPT of 786 thousand (Xeon with AMX, 2 cores, torch 2.13)."""
_CONVOLUTIONS = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""The names of mallopt(3) in glibc's malloc.h."""


@dataclass(frozen=True)
class Decision:
    """One choice, what it came out as, and why."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class Setup:
    """How a model runs on this machine."""

    device: torch.device
    precision: str
    """"bf16" or "fp32": of matrix products and convolutions; weights, losses and statistics are always fp32."""
    channels_last: bool
    compile: bool
    kernels: tuple[Any, ...]
    """Modules of `strata.kernels` whose layers take the place of torch's."""
    decisions: tuple[Decision, ...]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which a model's forward runs."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, model: Any) -> Any:
        """Return a model on the device, in the memory format, its layers as they run there.

        On a CPU, for a model with convolutions, the process keeps its memory from then on: see `keep_freed_memory`.
        """
        model = model.to(self.device)
        if self.device.type == "cpu" and self.channels_last:
            keep_freed_memory()
        for kernel in self.kernels:
            kernel.use_in(model)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def arrange(self, input_B: torch.Tensor) -> torch.Tensor:
        """Return a batch in the memory format, which only pictures have: (B, C, H, W)."""
        is_picture = self.channels_last and input_B.ndim == 4
        return input_B.contiguous(memory_format=torch.channels_last) if is_picture else input_B

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@functools.cache
def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.machine()


def processor() -> str:
    """Return the processor's name and what it multiplies matrices with, which decides its speed: "X with AVX2"."""
    return " with ".join(filter(None, (cpu_name(), widest(cpu_flags()))))


def available_memory_bytes() -> int:
    """Return the memory that could be used without swapping; half of all memory where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return 4 << 30


@functools.cache
def keep_freed_memory() -> bool:
    """Let the process keep the memory that a step frees, for the next step; return whether it does.

    A step of a convolutional network frees and asks again for hundreds of megabytes. By default glibc gives blocks of
    that size back to the system, which fills them with zeros anew: with 2 threads a fifth of the time of a ResNet-18's
    training step. The peak is up to a fifth higher. Elsewhere than on Linux with glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def choose_device(name: str = "auto") -> tuple[torch.device, Decision]:
    """Return the device of that name ("auto", "cpu", "cuda", "cuda:1", "mps") and why.

    Raises UnavailableError for a name that is none or a device that this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_name(0)
            return torch.device("cuda", 0), Decision("device", "cuda", f"a GPU is here: {gpu}")
        if torch.backends.mps.is_available():
            return torch.device("mps"), Decision("device", "mps", "an Apple GPU is here")
        return torch.device("cpu"), Decision("device", "cpu", f"no GPU found; {processor()}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnavailableError(f"train.device={name} is not a device. Allowed: auto, cpu, cuda, cuda:N, mps.") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise UnavailableError(f"train.device={name}: this machine has {count} CUDA devices. Use train.device=auto.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError(f"train.device={name}: this machine has no Apple GPU. Use train.device=auto.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UnavailableError(f"train.device={name} is not supported. Allowed: auto, cpu, cuda, cuda:N, mps.")
    return device, Decision("device", str(device), "asked for")


def multiplies_bf16(device: torch.device) -> tuple[bool, str]:
    """Say whether the hardware multiplies bf16 natively, and how we know."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"compute capability {major}.{minor} " + ("has" if major >= 8 else "lacks") + " bf16"
    if device.type == "cpu":
        flags = cpu_flags()
        if "amx_bf16" in flags:
            return True, "the processor multiplies bf16 in AMX tiles"
        if "avx512_bf16" in flags:
            return True, "the processor multiplies bf16 in AVX-512 vectors"
        return False, "the processor has neither AMX nor AVX-512 BF16: bf16 would be emulated"
    return False, "bf16 is not proven on this device"


def _linear_weights(model: torch.nn.Module | None) -> int:
    """Return how many weights a model's linear layers have."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) if model is not None else 0


def _choose_kernels(
    where: torch.device, precision: str, compiles: bool, model: torch.nn.Module | None
) -> tuple[tuple[Any, ...], list[Decision]]:
    """Decide which layers of ours take the place of torch's convolutions, and why."""
    if where.type != "cpu":
        return (), [Decision("convolutions", "direct", "the device's own library chooses")]

    def has(kernel: Any) -> bool:
        return model is None or any(kernel.takes_part(layer) for layer in model.modules())

    layers: list[Any] = [] if model is None else [m for m in model.modules() if winograd.takes_part(m)]
    chosen: list[Any] = []
    if model is not None and not layers:
        reason = "none is 3x3 with stride 1 and channels in multiples of 16"
    elif compiles:
        reason = "the compiler chooses"
    elif precision != "fp32" or any(layer.weight.dtype != torch.float32 for layer in layers):
        reason = "fewer multiplications are for fp32"
    elif isinstance(found := winograd.kernel(), str):
        reason = found
    else:
        reason = "a 3x3 takes a quarter of the multiplications"
        chosen.append(winograd)
    decisions = [Decision("convolutions", "Winograd" if winograd in chosen else "direct", reason)]
    if has(depthwise):
        if isinstance(found := "the compiler chooses" if compiles else depthwise.kernel(), str):
            decisions.append(Decision("depthwise", "torch's", found))
        else:
            chosen.append(depthwise)
            decisions.append(Decision("depthwise", "own gradients", "oneDNN has no fast ones of most sizes"))
    if has(sampled):
        chosen.append(sampled)
        reason = "oneDNN's gradient overwrites memory where channels are few"
        decisions.append(Decision("strided 1x1", "pixels first", reason))
    return tuple(chosen), decisions


def decide(
    *,
    device: str = "auto",
    precision: str = "auto",
    compile: bool | str = "auto",
    model: torch.nn.Module | None = None,
    steps: int = 0,
) -> Setup:
    """Make every hardware choice for one model and return them with their reasons.

    Args:
        model: what is to run; its layers decide memory format and precision. None: a large convolution net.
        steps: how long the run is, which decides whether compiling pays.
    """
    where, decision = choose_device(device)
    decisions = [decision]

    native, reason = multiplies_bf16(where)
    convolutional = model is None or any(isinstance(m, _CONVOLUTIONS) for m in model.modules())
    if precision == "auto":
        small = not convolutional and where.type == "cpu" and _linear_weights(model) < BF16_PAYS_FROM_WEIGHTS
        chosen = "bf16" if native and not small else "fp32"
        if native and small:
            reason = f"a model of under {BF16_PAYS_FROM_WEIGHTS:,} weights loses more in casting than bf16 gains"
        decisions.append(Decision("precision", chosen, reason))
    else:
        chosen = precision
        slow = "" if native or precision == "fp32" else f", though {reason}"
        decisions.append(Decision("precision", chosen, "asked for" + slow))

    channels_last = convolutional and where.type in ("cpu", "cuda")
    decisions.append(
        Decision(
            "memory format",
            "channels last" if channels_last else "contiguous",
            "convolutions read neighbouring channels together" if channels_last else "no convolutions",
        )
    )

    if compile == "auto":
        compiles = where.type == "cuda" and steps >= COMPILE_PAYS_AFTER_STEPS
        if where.type != "cuda":
            why = "on a CPU it gains 5 to 10 % after seconds of compiling; train.compile=true asks for it"
        else:
            why = f"{steps} steps " + ("earn" if compiles else "would not earn") + " the compile time back"
        decisions.append(Decision("compile", "yes" if compiles else "no", why))
    else:
        compiles = bool(compile)
        decisions.append(Decision("compile", "yes" if compiles else "no", "asked for"))

    kernels, of_convolutions = _choose_kernels(where, chosen, compiles, model) if convolutional else ((), [])
    decisions.extend(of_convolutions)
    if where.type == "cpu":
        decisions.append(Decision("threads", str(torch.get_num_threads()), f"{cores_in_words()} may be used"))
    return Setup(where, chosen, channels_last, compiles, kernels, tuple(decisions))


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_in_words() -> str:
    """Return how many cores this process may use, such as "2 cores"."""
    count = usable_cores()
    return "1 core" if count == 1 else f"{count} cores"


def gpu_name() -> str:
    """Return ``", "`` and the first GPU's name, or nothing."""
    return f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""


def commit() -> str:
    """Return the commit of the source that runs, "none" outside a checkout.

    Where its code differs from it, or files lie there that are in no commit, "-dirty-" and a digest of the difference
    follow: two such states have two names.
    """
    import hashlib
    import subprocess

    here = Path(__file__).parent
    code = (".", ":(exclude)recipes/results")

    def git(*words: str) -> bytes:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, check=True).stdout

    try:
        differs = git("diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--", *code)
        for name in git("ls-files", "--others", "--exclude-standard", "-z", "--", *code).split(b"\0")[:-1]:
            file = here / os.fsdecode(name)
            differs += name + b"\0" + (file.read_bytes() if file.is_file() else b"")
        clean = git("describe", "--always", "--abbrev=12").decode().strip()
        return f"{clean}-dirty-{hashlib.sha256(differs).hexdigest()[:8]}" if differs else clean
    except (OSError, subprocess.CalledProcessError):
        return "none"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    import numpy

    from strata import __version__

    return {
        "strata": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
    }
