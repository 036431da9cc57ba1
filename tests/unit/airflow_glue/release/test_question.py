from __future__ import annotations

from pathlib import Path

import pytest

from tasks.airflow_glue.release.question import Question, question
from tasks.contracts import Package, Verdict
from tasks.release.contracts import Phase, Release
from tasks.store import LocalStore
from tests import releasing, samples


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def _asked(store: LocalStore, release: Release, package: Package | None = None) -> Question:
    return question(release, package or samples.package(store), None, None, is_asked=True)


def test_a_person_sees_what_would_replace_what(store: LocalStore) -> None:
    asked = _asked(store, releasing.release(Phase.SHADOW, shadow=releasing.shadowed()))
    assert asked.subject == "Release digits version 2?"
    assert releasing.deployed("2").package in asked.body
    assert releasing.deployed("1").package in asked.body


def test_a_person_sees_metrics_parity_smoke_and_shadow(store: LocalStore) -> None:
    body = _asked(store, releasing.release(Phase.SHADOW, shadow=releasing.shadowed())).body
    assert "accuracy" in body
    assert "| parity | passed |" in body
    assert "c6i.large passed" in body
    assert "c4.large passed" in body
    assert "### Shadow: passed" in body
    assert "1000 requests (719 different) from the evaluation data" in body
    assert "98.76% of rows answered alike" in body
    assert "1 → 50 → 100 % of traffic" in body


def test_shadows_remarks_are_shown(store: LocalStore) -> None:
    remark = samples.finding("SHADOW_SLOWER", verdict=Verdict.PASSED, message="it is slower")
    release = releasing.release(Phase.SHADOW, shadow=releasing.shadowed(findings=(remark,)))
    assert "`SHADOW_SLOWER` (remark, model): it is slower" in _asked(store, release).body


def test_a_models_first_release_replaces_nothing(store: LocalStore) -> None:
    release = releasing.release(Phase.SHADOW, stable=None, shadow=releasing.shadowed(kind="first", agreement=None))
    assert "nothing: the model was never released before" in _asked(store, release).body


def test_what_is_not_known_is_said_to_be_unknown(store: LocalStore) -> None:
    release = releasing.release(Phase.SHADOW, candidate=releasing.deployed("2", format="savedmodel"), shadow=None)
    package = samples.package(store, samples.spec(formats=("onnx",)))
    body = _asked(store, release, package).body
    assert "| smoke | unknown |" in body
    assert "### Shadow: not run" in body


def test_a_bar_in_a_name_makes_no_column(store: LocalStore) -> None:
    release = releasing.release(Phase.SHADOW, candidate=releasing.deployed("2", format="a|b"), shadow=None)
    assert "| format | a\\|b |" in _asked(store, release).body
