"""What a machine offers, read from trees as kernels write them, and what is refused for lack of it."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from serving.contract import GpuNeeds, Needs
from serving.machine import Machine, memory_limit, mib
from serving.package import Refusal, Refused, verify_machine
from tasks.image.runtimes import PYTHON, SERVED

GIB = 2**30
HERE = Machine("x86_64", "3.11", frozenset({"avx", "avx2"}), memory_bytes=GIB, held_bytes=2**25)
MEMINFO = "MemTotal:       16384000 kB\nMemFree:         1000 kB\n"


def tree(root: Path, **files: str) -> Path:
    """Files below `root`, by a path whose slashes are double underscores."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def refusal(needs: Needs, machine: Machine = HERE) -> tuple[Refusal, str]:
    with pytest.raises(Refused) as caught:
        verify_machine(needs, machine)
    return caught.value.refusal, str(caught.value)


def test_the_limit_of_a_unified_control_group_is_found(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{GIB}\n")
    assert memory_limit(tree(tmp_path, proc__meminfo=MEMINFO)) == GIB


def test_the_limit_of_a_control_group_of_the_first_kind_is_found(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{GIB}\n")
    (group / "memory.stat").write_text(f"cache 0\nhierarchical_memory_limit {GIB}\n")
    assert memory_limit(tree(tmp_path, proc__meminfo=MEMINFO)) == GIB


def test_the_limit_of_a_group_above_counts(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (group / "memory.stat").write_text(f"hierarchical_memory_limit {GIB}\n")
    assert memory_limit(tree(tmp_path, proc__meminfo=MEMINFO)) == GIB


@pytest.mark.parametrize("unlimited", ["max", "9223372036854771712"])
def test_without_a_limit_the_machines_memory_counts(tmp_path: Path, unlimited: str) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(unlimited)
    assert memory_limit(tree(tmp_path, proc__meminfo=MEMINFO)) == 16384000 * 1024


def test_a_kernel_that_says_nothing_leaves_everything_open(tmp_path: Path) -> None:
    machine = Machine.this(tmp_path)
    assert (machine.memory_bytes, machine.instructions, machine.held_bytes) == (None, None, 0)
    verify_machine(Needs(instructions=("avx512f",), memory_bytes=GIB), machine)


def test_the_first_processors_flags_are_its_instructions(tmp_path: Path) -> None:
    said = "processor\t: 0\nflags\t\t: fpu avx avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    assert Machine.this(tree(tmp_path, proc__cpuinfo=said)).instructions == {"fpu", "avx", "avx2"}


def test_this_machine_is_the_one_that_images_are_built_for() -> None:
    machine = Machine.this()
    assert (machine.architecture, machine.python) == (platform.machine(), PYTHON)
    assert machine.memory_bytes is not None
    assert machine.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < machine.held_bytes < machine.memory_bytes
    verify_machine(Needs(SERVED.machine, PYTHON, ("sse2",), 2**20), machine)


def test_what_is_there_is_enough() -> None:
    verify_machine(Needs("x86_64", "3.11", ("avx",), GIB - 2**25), HERE)


@pytest.mark.parametrize("needs", [Needs(architecture="aarch64"), Needs(python="3.12")])
def test_another_platform_is_refused_and_both_are_named(needs: Needs) -> None:
    code, sentence = refusal(needs)
    assert code is Refusal.PLATFORM
    assert (needs.architecture or needs.python) in sentence
    assert (HERE.architecture if needs.architecture else HERE.python) in sentence


def test_missing_instructions_are_refused_and_only_they_are_named() -> None:
    code, sentence = refusal(Needs(instructions=("avx2", "avx512f", "avx512vl")))
    assert code is Refusal.INSTRUCTIONS
    assert "holds avx512f, avx512vl instructions" in sentence
    assert "instance type" in sentence


def test_weights_that_do_not_fit_beside_the_server_are_refused_with_all_three_figures() -> None:
    code, sentence = refusal(Needs(memory_bytes=GIB - 2**24))
    assert code is Refusal.MEMORY
    assert all(figure in sentence for figure in ("1,008 MiB", "32 MiB", "1,024 MiB"))


NVRM = "NVRM version: NVIDIA UNIX {kind}  {driver}  Tue Jun  6 22:20:39 UTC 2023\nGCC version:  gcc 11.4.0\n"


@pytest.mark.parametrize("kind", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_the_driver_of_a_gpu_that_the_container_was_given_is_found(tmp_path: Path, kind: str) -> None:
    root = tree(tmp_path, proc__driver__nvidia__version=NVRM.format(kind=kind, driver="535.54.03"), dev__nvidiactl="")
    assert Machine.this(root).nvidia_driver == "535.54.03"


def test_a_gpu_that_the_machine_has_and_the_container_was_not_given_is_none(tmp_path: Path) -> None:
    text = NVRM.format(kind="x86_64 Kernel Module", driver="535.54.03")
    assert Machine.this(tree(tmp_path, proc__driver__nvidia__version=text)).nvidia_driver is None


def test_a_gpu_package_without_a_gpu_is_refused() -> None:
    code, sentence = refusal(Needs(gpu=GpuNeeds(cuda="12.6", driver="525.60.13")))
    assert code is Refusal.PLATFORM
    assert "computes with CUDA 12.6, and this container has no NVIDIA GPU" in sentence


@pytest.mark.parametrize(("driver", "is_enough"), [("470.256.02", False), ("525.60.13", True), ("1000.1", True)])
def test_a_driver_is_held_against_what_the_package_needs(driver: str, is_enough: bool) -> None:
    needs, machine = Needs(gpu=GpuNeeds(cuda="12.6", driver="525.60.13")), replace(HERE, nvidia_driver=driver)
    if is_enough:
        verify_machine(needs, machine)
    else:
        assert f"needs NVIDIA's driver 525.60.13 or newer, this machine has {driver}" in refusal(needs, machine)[1]


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 KiB"), (1, "1 KiB"), (6_700, "7 KiB"), (2**20 // 5, "0.2 MiB"), (5 * 2**20, "5.0 MiB"), (GIB, "1,024 MiB")],
)
def test_no_size_is_rounded_to_nothing(size: int, said: str) -> None:
    assert mib(size) == said
