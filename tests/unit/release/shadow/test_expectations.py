"""What both versions are held to, and whether clients of today are understood by the new one at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import DimRange, DType, NanPolicy, PreprocessStep, Signature, TensorSpec, Tolerance
from tasks.contracts import Finding, Owner, Verdict
from tasks.release.contracts import Deployed
from tasks.release.shadow.answers import together
from tasks.release.shadow.expectations import Version, kind_of, signature_findings
from tasks.store import LocalStore
from tests import samples
from tests.unit.release.shadow.versions import SIGNATURE, version

X = SIGNATURE.inputs[0]
Y = SIGNATURE.outputs[0]


def test_the_same_bytes_prepared_in_the_same_way_are_the_same_model() -> None:
    assert kind_of(version("one"), version("one", max_batch=4)) == "equivalent"


def test_another_artifact_is_a_retrained_model() -> None:
    assert kind_of(version("one"), version("two")) == "retrained"


def test_the_same_bytes_prepared_otherwise_are_not_the_same_model() -> None:
    changed = version("one", preprocess=(PreprocessStep("scale", "x", by=0.1),))
    assert kind_of(version("one"), changed) == "retrained"


def test_without_an_old_version_it_is_the_first() -> None:
    assert kind_of(None, version()) == "first"


def found(new: Signature) -> list[tuple[str, Verdict]]:
    return [(finding.code, finding.verdict) for finding in signature_findings(SIGNATURE, new)]


@pytest.mark.parametrize(
    "new",
    [
        replace(SIGNATURE, inputs=(replace(X, name="pixels"),)),
        replace(SIGNATURE, inputs=(replace(X, dtype=DType.FLOAT32),)),
        replace(SIGNATURE, inputs=(replace(X, shape=("batch", 4)),)),
        replace(SIGNATURE, inputs=(replace(X, shape=("batch",)),)),
        replace(SIGNATURE, inputs=(X, TensorSpec("age", DType.INT64, ("batch",)))),
        replace(SIGNATURE, outputs=(replace(Y, name="scores"),)),
        replace(SIGNATURE, outputs=(replace(Y, dtype=DType.FLOAT32),)),
    ],
    ids=["renamed", "dtype", "size", "rank", "further", "output renamed", "output dtype"],
)
def test_what_clients_send_or_read_and_is_gone_blocks(new: Signature) -> None:
    assert found(new)
    assert set(found(new)) == {("SHADOW_SIGNATURE_CHANGED", Verdict.FAILED)}


@pytest.mark.parametrize(
    "new",
    [
        replace(SIGNATURE, dynamic={"batch": DimRange(1, 8)}),
        replace(SIGNATURE, inputs=(replace(X, range=(0, 1)),)),
    ],
    ids=["fewer rows", "fewer values"],
)
def test_what_is_narrower_is_a_remark_because_the_replay_shows_who_uses_it(new: Signature) -> None:
    assert found(new) == [("SHADOW_SIGNATURE_NARROWED", Verdict.PASSED)]


def test_missing_values_that_are_not_taken_any_more_are_a_remark() -> None:
    before = replace(SIGNATURE, inputs=(replace(X, nan=NanPolicy.ACCEPT),))
    [remark] = signature_findings(before, SIGNATURE)
    assert "missing values" in remark.message


@pytest.mark.parametrize(
    "new",
    [
        SIGNATURE,
        replace(SIGNATURE, dynamic={"batch": DimRange(1, 128)}),
        replace(SIGNATURE, outputs=(Y, TensorSpec("confidence", DType.FLOAT32, ("batch",)))),
        Signature(
            inputs=(replace(X, shape=("rows", "width")),),
            outputs=(replace(Y, shape=("rows", 3)),),
            dynamic={"rows": DimRange(1, 16), "width": DimRange(1, 9)},
        ),
    ],
    ids=["the same", "more rows", "further output", "other names of sizes"],
)
def test_what_is_wider_is_nothing_to_say(new: Signature) -> None:
    assert found(new) == []


@given(
    source=st.floats(-1e6, 1e6),
    a=st.tuples(st.floats(0, 10), st.floats(0, 0.9)),
    b=st.tuples(st.floats(0, 10), st.floats(0, 2)),
    where=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_two_answers_that_each_keep_to_the_source_keep_to_both_tolerances_together(
    source: float, a: tuple[float, float], b: tuple[float, float], where: tuple[float, float]
) -> None:
    old = source + where[0] * (a[0] + a[1] * abs(source))
    new = source + where[1] * (b[0] + b[1] * abs(source))
    both = together({"y": Tolerance(*a)}, {"y": Tolerance(*b)})["y"]
    assert abs(new - old) <= (both.atol + both.rtol * abs(old)) * (1 + 1e-9) + 1e-9


def test_a_tolerance_that_only_one_has_is_none() -> None:
    assert together({"y": Tolerance(1, 0)}, {"z": Tolerance(1, 0)}) == {}


def test_rows_that_parity_found_on_a_threshold_are_a_share_of_all(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    edge = Finding(
        code="PARITY_ROWS_ON_EDGE",
        owner=Owner.MODEL,
        verdict=Verdict.PASSED,
        message="m",
        advice="a",
        evidence={"pool": "evaluation", "rows": 3},
    )
    package = samples.package(
        store, parity=[samples.parity_report(store, name, findings=(edge,)) for name in samples.FORMATS]
    )
    image = package.images[0]
    deployed = Deployed(package=package.digest, image=image.digest, reference=image.reference, format=image.format)
    known = Version.of(deployed, package, samples.spec())
    assert known.edges == 0.03
    assert known.contract == image.contract_digest
