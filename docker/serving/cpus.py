"""How many CPUs this process may use: the container's quota, not the host's cores."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs, at least 1: the smaller of the CPU affinity and the cgroup's CFS quota, rounded up.

    Reads cgroup v2 (`cpu.max`: "quota period" in µs, or "max") and v1 (`cpu.cfs_quota_us`, -1 for none, and
    `cpu.cfs_period_us`); see the kernel's Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    """
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """CPUs that the quota amounts to; `None` without one."""
    unified = _read(cgroup / "cpu.max")
    if unified is not None:
        limit, period = unified.split()
        return None if limit == "max" else int(limit) / int(period)
    for folder in (cgroup / "cpu", cgroup / "cpu,cpuacct"):
        quota_us, period_us = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota_us is not None and period_us is not None:
            return None if int(quota_us) < 0 else int(quota_us) / int(period_us)
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
