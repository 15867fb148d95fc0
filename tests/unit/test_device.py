"""Every hardware choice is made once, with its reason."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from strata import device
from strata.device import choose_device, decide
from strata.errors import UnavailableError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "train.device=gpu is not a device. Allowed: auto, cpu, cuda, cuda:N, mps."),
        ("meta", "train.device=meta is not supported. Allowed: auto, cpu, cuda, cuda:N, mps."),
        ("cuda:99", "train.device=cuda:99: this machine has "),
    ],
)
def test_a_device_that_is_not_here_is_refused(name: str, words: str) -> None:
    with pytest.raises(UnavailableError) as refused:
        choose_device(name)
    assert words in str(refused.value)


def test_every_choice_has_a_reason() -> None:
    for decision in decide(device="cpu", steps=10).decisions:
        assert decision.name and decision.value and decision.reason


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_chosen_where_the_hardware_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "multiplies_bf16", lambda where: (native, "so it is"))
    setup = decide(device="cpu", model=nn.Conv2d(3, 8, 3))
    assert setup.precision == ("bf16" if native else "fp32")
    assert decide(device="cpu", model=nn.Linear(8, 8)).precision == "fp32"  # too narrow to gain
    assert decide(device="cpu", precision="bf16").precision == "bf16"


@pytest.mark.parametrize(
    ("flags", "native", "words"),
    [
        ({"avx2", "avx512f", "avx512_bf16", "amx_bf16"}, True, "in AMX tiles"),
        ({"avx2", "avx512f", "avx512_bf16"}, True, "in AVX-512 vectors"),
        ({"avx2", "avx512f", "avx512_vnni"}, False, "would be emulated"),
    ],
)
def test_a_processor_multiplies_bf16_in_tiles_or_in_vectors(
    flags: set[str], native: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    found, reason = device.multiplies_bf16(torch.device("cpu"))
    assert found is native
    assert words in reason


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, "Fast One with AVX-512 BF16"),
        ({"avx2"}, "Fast One with AVX2"),
        ({"neon"}, "Fast One"),
    ],
)
def test_a_processor_is_told_with_what_decides_its_speed(
    flags: set[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(device, "cpu_name", lambda: "Fast One")
    assert device.processor() == words


def test_fp32_runs_without_autocast_and_bf16_with() -> None:
    assert isinstance(decide(device="cpu", precision="fp32").autocast(), contextlib.nullcontext)
    with decide(device="cpu", precision="bf16").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_only_convolutions_take_channels_last() -> None:
    assert decide(device="cpu", model=nn.Conv2d(3, 8, 3)).channels_last
    assert not decide(device="cpu", model=nn.Linear(8, 8)).channels_last


def test_a_cpu_compiles_only_when_asked() -> None:
    assert not decide(device="cpu", steps=10**6).compile
    assert decide(device="cpu", compile=True).compile


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    script = """
import resource, sys, torch
from strata.device import keep_freed_memory

def step():
    return [torch.ones(1 << 24) for _ in range(2)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

assert sys.argv[1] == "as it is" or keep_freed_memory()
for _ in range(3):
    step()
before = faults()
for _ in range(8):
    step()
print(faults() - before)
"""
    faults = {
        case: int(subprocess.check_output([sys.executable, "-c", script, case], text=True))
        for case in ("kept", "as it is")
    }
    assert faults["kept"] < faults["as it is"] / 4


def test_versions_name_what_a_result_depends_on() -> None:
    assert {"strata", "python", "torch", "numpy", "platform"} <= device.versions().keys()
    assert device.available_memory_bytes() > 0
