"""What a machine offers, read from trees as kernels write them, and what is refused for lack of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from serving.contract import Needs
from serving.machine import Machine, memory_limit, mib
from serving.package import Refusal, Refused, verify_machine
from tasks.image.runtimes import ARCHITECTURE, PYTHON

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
    verify_machine(Needs(ARCHITECTURE, PYTHON, ("sse2",), 2**20), machine)


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


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 KiB"), (1, "1 KiB"), (6_700, "7 KiB"), (2**20 // 5, "0.2 MiB"), (5 * 2**20, "5.0 MiB"), (GIB, "1,024 MiB")],
)
def test_no_size_is_rounded_to_nothing(size: int, said: str) -> None:
    assert mib(size) == said
