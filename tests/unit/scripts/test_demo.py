from __future__ import annotations

from pathlib import Path

import pytest

from scripts.airflow_api import Run
from scripts.demo import Example, exit_code
from tasks.contracts import Package
from tasks.store import LocalStore
from tests import samples


@pytest.fixture
def passed(tmp_path: Path) -> Package:
    return samples.package(LocalStore(tmp_path))


@pytest.fixture
def failed(tmp_path: Path) -> Package:
    return samples.package(LocalStore(tmp_path), exports=[samples.failed_export(name) for name in samples.FORMATS])


def _example(package: Package | None, state: str) -> Example:
    return Example("digits", Run("package_model", "demo", state), package=package)


def test_the_demo_succeeds_when_every_package_passed(passed: Package) -> None:
    assert exit_code([_example(passed, "success"), _example(passed, "success")]) == 0


def test_one_package_that_did_not_pass_fails_the_demo(passed: Package, failed: Package) -> None:
    assert exit_code([_example(passed, "success"), _example(failed, "failed")]) == 1


def test_a_run_that_failed_is_no_success_whatever_its_package_says(passed: Package) -> None:
    assert exit_code([_example(passed, "failed")]) == 1


def test_a_run_without_a_package_is_the_platforms_failure(failed: Package) -> None:
    assert exit_code([_example(failed, "failed"), _example(None, "failed")]) == 3
