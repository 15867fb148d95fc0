"""Kernels in C, for what torch does slowly on a CPU: compiled once for the processor at hand, by the user's compiler.

Each is a file beside this one; ``vectors.h`` is what they share. Without a compiler, or where one fails, torch's own
operations serve. `sampled` needs none: it keeps away from what torch does wrongly there.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from strata.cache import cache_folder

if TYPE_CHECKING:
    from torch import nn

_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-lm")
WIDE_VECTORS = ("avx512f", "avx2")
"""Features of processors on which kernels that calculate with floats are known to be faster than torch; any of them."""
_FLAGS_BY_MACHINE = {"x86_64": ("-mprefer-vector-width=512",), "AMD64": ("-mprefer-vector-width=512",)}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


WIDEST = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "avx512f": "AVX-512", "avx2": "AVX2"}
"""What multiplies matrices, fastest first, by the feature flags that tell it."""


def widest(flags: Collection[str]) -> str:
    """Return the fastest of `WIDEST` among a processor's flags, in words; nothing where there is none."""
    return next((name for flag, name in WIDEST.items() if flag in flags), "")


def compiled(name: str, options: Sequence[str] = (), needs: Sequence[str] = ()) -> ctypes.CDLL | str:
    """Return the library of ``name``.c for this processor, or in words why there is none.

    The first call ever compiles it, into the cache folder; whatever the result depends on is in the file's name.

    Args:
        options: of the compiler, besides those that all kernels have.
        needs: features, of which the processor has to have one; none are needed where it is empty.
    """
    if needs and cpu_flags().isdisjoint(needs):
        return f"the processor has none of {', '.join(needs)}"
    file = Path(__file__).with_name(f"{name}.c")
    named = [os.environ.get("CC"), "cc", "gcc", "clang"]
    compiler = next((path for path in (shutil.which(command) for command in named if command) if path), None)
    if compiler is None:
        return "no C compiler was found (cc, gcc, clang or $CC)"
    flags = (*_FLAGS, *options, *_FLAGS_BY_MACHINE.get(platform.machine(), ()))
    depends_on = (
        file.read_bytes(),
        file.with_name("vectors.h").read_bytes(),
        compiler.encode(),
        repr(flags).encode(),
        repr(sorted(cpu_flags())).encode(),
        platform.machine().encode(),
    )
    digest = hashlib.sha256(b"\0".join(depends_on)).hexdigest()[:20]
    path = cache_folder() / "kernels" / f"{name}-{digest}.so"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                aside = Path(folder) / path.name
                command = [compiler, *flags, "-o", str(aside), str(file)]
                subprocess.run(command, check=True, capture_output=True, timeout=120)
                aside.replace(path)
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        return f"{compiler} could not compile {file.name}: {error.stderr.decode(errors='replace').strip()[:200]}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"the kernel could not be made or read: {error}"


def exchange(model: nn.Module, takes_part: Callable[[nn.Module], bool], kind: type[nn.Module]) -> nn.Module:
    """Make layers of a model, itself among them, those of a kind, in place; return the model.

    They keep their parameters, whose names and places in a checkpoint stay as they are.
    """
    for layer in model.modules():
        if takes_part(layer):
            layer.__class__ = kind
    return model
