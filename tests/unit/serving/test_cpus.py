"""CPUs follow the container's quota, in both versions of cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.cpus import available_cpus

CORES = len(os.sched_getaffinity(0))


def write(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_without_cgroups_every_core_may_be_used(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == CORES


@pytest.mark.parametrize(
    ("limit", "cpus"), [("max 100000", CORES), ("100000 100000", 1), ("50000 100000", 1), ("6400000 100000", CORES)]
)
def test_the_quota_of_version_2(tmp_path: Path, limit: str, cpus: int) -> None:
    assert available_cpus(write(tmp_path, cpu_DOT_max=limit + "\n")) == cpus


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "cpus"), [("-1", CORES), ("100000", 1), ("10000", 1), ("6400000", CORES)])
def test_the_quota_of_version_1(tmp_path: Path, folder: str, quota: str, cpus: int) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / folder / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(tmp_path) == cpus


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_a_part_of_a_cpu_counts_as_one_more(tmp_path: Path) -> None:
    assert available_cpus(write(tmp_path, cpu_DOT_max="150000 100000")) == 2
