"""Which containers are orphans: only those whose owner is known to be dead."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tasks.image.engine import (
    BOOT_LABEL,
    COMPONENT_LABEL,
    PID_LABEL,
    PID_NAMESPACE_LABEL,
    is_orphan,
    owner_labels,
)


@pytest.fixture(scope="module")
def dead_pid() -> str:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return str(process.pid)


def test_the_labels_name_this_process() -> None:
    labels = owner_labels("smoke")
    assert labels[COMPONENT_LABEL] == "smoke"
    assert labels[PID_LABEL] == str(os.getpid())
    assert all(labels.values())


def test_a_container_of_a_living_process_is_no_orphan() -> None:
    assert not is_orphan(owner_labels("smoke"), running=True)


@pytest.mark.parametrize("running", [True, False])
def test_a_container_of_a_dead_process_is_an_orphan(dead_pid: str, running: bool) -> None:
    assert is_orphan(owner_labels("smoke") | {PID_LABEL: dead_pid}, running)


def test_a_pid_of_another_namespace_says_nothing(dead_pid: str) -> None:
    labels = owner_labels("smoke") | {PID_LABEL: dead_pid, PID_NAMESPACE_LABEL: "pid:[1]"}
    assert not is_orphan(labels, running=True)


def test_a_container_of_another_boot_is_an_orphan_once_it_has_ended(dead_pid: str) -> None:
    labels = owner_labels("smoke") | {PID_LABEL: dead_pid, BOOT_LABEL: "another"}
    assert is_orphan(labels, running=False)
    assert not is_orphan(labels, running=True)


@pytest.mark.parametrize("labels", [{}, {PID_LABEL: "x"}, {PID_LABEL: ""}])
def test_what_slipway_did_not_start_is_none_of_its_business(labels: dict[str, str]) -> None:
    assert not is_orphan(labels, running=False)
