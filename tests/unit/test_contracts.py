"""What contracts promise: they travel unchanged, cannot be bent, and never say better than their findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from serving.contract import PackagedFile
from tasks.contracts import (
    Contract,
    ExportReport,
    ExportRun,
    FileTree,
    Finding,
    ImageRun,
    IngestRun,
    Package,
    ParityRun,
    Report,
    SmokeRun,
    Verdict,
    digest_of,
)
from tasks.store import LocalStore
from tests import samples

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
verdicts = st.sampled_from(Verdict)


# --- digests ------------------------------------------------------------------------------------------------------


@given(value=json_values)
def test_a_digest_survives_a_way_through_json(value: object) -> None:
    assert digest_of(json.loads(json.dumps(value))) == digest_of(value)


@given(pairs=st.dictionaries(st.text(), json_values, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_matter(pairs: dict[str, object]) -> None:
    assert digest_of(dict(reversed(list(pairs.items())))) == digest_of(pairs)


@given(first=json_values, second=json_values)
def test_other_values_have_other_digests(first: object, second: object) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (digest_of(first) == digest_of(second)) == same


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_no_json_can_say_has_no_digest(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_of(value)


def test_only_json_and_contracts_have_digests() -> None:
    with pytest.raises(TypeError, match="Path"):
        digest_of(Path("/"))


def test_a_contracts_digest_is_that_of_its_json(tmp_path: Path) -> None:
    artifact = samples.artifact(LocalStore(tmp_path))
    assert digest_of(artifact) == digest_of(artifact.model_dump(mode="json"))


# --- verdicts -----------------------------------------------------------------------------------------------------


@given(parts=st.lists(verdicts, max_size=6))
def test_only_passes_make_a_pass(parts: list[Verdict]) -> None:
    worst = Verdict.worst(parts)
    assert (worst is Verdict.PASSED) == (bool(parts) and set(parts) == {Verdict.PASSED})
    assert (worst is Verdict.FAILED) == (Verdict.FAILED in parts)


@given(parts=st.lists(verdicts, min_size=1, max_size=6), more=st.lists(verdicts, max_size=6))
def test_the_worst_of_worsts_is_the_worst_of_all(parts: list[Verdict], more: list[Verdict]) -> None:
    assert Verdict.worst([Verdict.worst(parts), *more]) is Verdict.worst([*parts, *more])


@given(verdict=verdicts, finding=verdicts)
def test_a_report_is_never_better_than_its_findings(verdict: Verdict, finding: Verdict) -> None:
    findings = (samples.finding(verdict=finding),)
    if Verdict.worst([verdict, finding]) is verdict:
        assert Report(verdict=verdict, findings=findings).verdict is verdict
    else:
        with pytest.raises(ValidationError, match="a finding says"):
            Report(verdict=verdict, findings=findings)


@pytest.mark.parametrize("changes", [{"code": "lower"}, {"message": ""}, {"advice": ""}, {"owner": "nobody"}])
def test_a_finding_says_what_whose_and_what_to_do(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        samples.finding(**changes)


def test_an_export_that_passed_has_files_and_one_that_failed_has_none(tmp_path: Path) -> None:
    export = samples.export(LocalStore(tmp_path))
    with pytest.raises(ValidationError, match="exactly when"):
        ExportReport(verdict=Verdict.PASSED, format="onnx")
    with pytest.raises(ValidationError, match="exactly when"):
        ExportReport(verdict=Verdict.FAILED, findings=(samples.finding(),), format="onnx", export=export)


# --- trees --------------------------------------------------------------------------------------------------------


def file_of(path: str) -> PackagedFile:
    return PackagedFile(path, digest_of(path), 1)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "a\\..\\b"])
def test_a_path_that_leaves_its_tree_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="leaves the tree"):
        FileTree(files=(file_of(path),))


@pytest.mark.parametrize("paths", [("b", "a"), ("a", "a")])
def test_a_tree_is_sorted_and_says_each_path_once(paths: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="sorted and unique"):
        FileTree(files=tuple(map(file_of, paths)))


def test_a_tree_is_not_empty() -> None:
    with pytest.raises(ValidationError):
        FileTree(files=())


def test_a_trees_size_is_that_of_its_files() -> None:
    assert FileTree(files=(file_of("a"), file_of("b"))).size_bytes == 2


# --- travelling ---------------------------------------------------------------------------------------------------


def every_contract(store: LocalStore) -> list[Contract]:
    package = samples.package(store)
    key = digest_of("key")
    how = {"label": "cell", "key": key, "reused": False, "duration_s": 1.5}
    return [
        package,
        package.artifact,
        samples.failed_export(),
        IngestRun(stage="ingest", result=package.artifact, **how),
        ExportRun(stage="export", result=package.exports[0], **how),
        ParityRun(stage="parity", result=package.parity[0], **how),
        ImageRun(stage="image", result=package.images[0], **how),
        SmokeRun(stage="smoke", result=package.smoke[0], **how),
    ]


def test_every_contract_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    for contract in every_contract(LocalStore(tmp_path)):
        assert type(contract).model_validate_json(contract.model_dump_json()) == contract
        assert type(contract).model_validate(contract.model_dump(mode="json")) == contract


def test_contracts_are_found_by_their_import_path(tmp_path: Path) -> None:
    """XCom names classes by module and name: a parametrised generic has neither."""
    import tasks.contracts as module

    for contract in every_contract(LocalStore(tmp_path)):
        assert getattr(module, type(contract).__name__) is type(contract)


def test_contracts_cannot_be_changed_nor_told_what_they_do_not_know(tmp_path: Path) -> None:
    artifact = samples.artifact(LocalStore(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        artifact.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(artifact).model_validate({**artifact.model_dump(), "unknown": 1})


def test_a_packaged_file_is_strict_inside_contracts() -> None:
    class Holder(BaseModel):
        file: PackagedFile

    with pytest.raises(ValidationError):
        Holder.model_validate({"file": {"path": "a", "digest": "b", "size_bytes": 1, "more": 2}})


def test_a_package_is_some_kilobytes(tmp_path: Path) -> None:
    assert len(samples.package(LocalStore(tmp_path)).model_dump_json()) < 20_000


def test_a_digest_is_written_in_full() -> None:
    with pytest.raises(ValidationError):
        Package.model_validate({"inputs": {"spec": "sha256:123"}})
    assert Finding.model_fields["code"].description
