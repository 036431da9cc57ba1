"""The package's verdict: only complete, fitting and passed evidence passes; everything else is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks.contracts import ExportReport, Package, SmokeFigures, SmokeReport, Verdict, digest_of
from tasks.manifest import assemble
from tasks.spec import ServingSpec, SmokeSpec
from tasks.store import LocalStore
from tests import samples
from tests.samples import FORMATS, TYPES


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def codes(package: Package) -> list[str]:
    return [finding.code for finding in package.findings]


def smoked(*, without: tuple[str, str] | None = None, **changes: object) -> list[SmokeReport]:
    """Every cell's report, without one, or with one of them changed (`cell`)."""
    cell = changes.pop("cell", None)
    return [
        samples.smoke_report(name, kind, **(changes if (name, kind) == cell else {}))
        for name in FORMATS
        for kind in TYPES
        if (name, kind) != without
    ]


def test_complete_evidence_that_passed_is_a_package_that_passed(store: LocalStore) -> None:
    package = samples.package(store)
    assert package.verdict is Verdict.PASSED
    assert package.findings == ()
    assert len(package.smoke) == len(FORMATS) * len(TYPES)


# --- the identity -------------------------------------------------------------------------------------------------


@given(
    formats=st.permutations(FORMATS),
    types=st.permutations(TYPES),
    repeats=st.integers(min_value=1, max_value=2),
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_order_of_formats_and_types_does_not_matter(
    store: LocalStore, formats: list[str], types: list[str], repeats: int
) -> None:
    spec = samples.spec(formats=tuple(formats), smoke=SmokeSpec(instance_types=tuple(types * repeats)))
    shuffled = assemble(
        spec,
        samples.artifact(store),
        [samples.export_report(store, name) for name in formats],
        [samples.parity_report(store, name) for name in formats],
        [samples.image(name) for name in formats],
        [samples.smoke_report(name, kind) for kind in types for name in formats],
    )
    assert shuffled == samples.package(store)


def test_the_identity_follows_from_the_inputs_whatever_came_out(store: LocalStore) -> None:
    failed = samples.package(
        store,
        exports=[samples.failed_export(name) for name in FORMATS],
        parity=[],
        images=[],
        smoke=[],
    )
    assert failed.verdict is Verdict.FAILED
    assert failed.digest == samples.package(store).digest


def test_other_instance_types_are_another_package(store: LocalStore) -> None:
    fewer = samples.package(store, samples.spec(smoke=SmokeSpec(instance_types=TYPES[:1])))
    assert fewer.digest != samples.package(store).digest


# --- the verdict --------------------------------------------------------------------------------------------------


def test_one_format_that_cannot_be_exported_fails_the_package_and_not_the_other(store: LocalStore) -> None:
    package = samples.package(
        store,
        exports=[samples.failed_export("onnx"), samples.export_report(store, "savedmodel")],
        parity=[samples.parity_report(store, "savedmodel")],
        images=[samples.image("savedmodel")],
        smoke=[samples.smoke_report("savedmodel", kind) for kind in TYPES],
    )
    assert package.verdict is Verdict.FAILED
    assert codes(package) == ["EXPORT_UNSUPPORTED_OPERATOR"]
    assert package.findings[0].evidence == {"stage": "export", "format": "onnx"}
    assert package.serving_format == "savedmodel"


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.INCONCLUSIVE])
def test_parity_that_did_not_pass_blocks_the_package(store: LocalStore, verdict: Verdict) -> None:
    found = samples.finding("PARITY_DIFFERS", verdict=verdict)
    package = samples.package(
        store,
        parity=[
            samples.parity_report(store, "onnx", verdict=verdict, findings=(found,)),
            samples.parity_report(store, "savedmodel"),
        ],
        images=[samples.image("savedmodel")],
        smoke=[samples.smoke_report("savedmodel", kind) for kind in TYPES],
    )
    assert package.verdict is verdict
    assert codes(package) == ["PARITY_DIFFERS"]


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.INCONCLUSIVE])
def test_one_instance_type_that_did_not_pass_blocks_the_package(store: LocalStore, verdict: Verdict) -> None:
    found = (samples.finding("SMOKE_OUT_OF_MEMORY", verdict=verdict),)
    package = samples.package(store, smoke=smoked(cell=("onnx", "c4.large"), verdict=verdict, findings=found))
    assert package.verdict is verdict
    assert package.serving_format == "savedmodel"
    assert package.findings[0].evidence == {"stage": "smoke", "format": "onnx", "instance_type": "c4.large"}


def test_a_verdict_without_a_finding_blocks_all_the_same(store: LocalStore) -> None:
    package = samples.package(store, smoke=smoked(cell=("onnx", "c4.large"), verdict=Verdict.FAILED))
    assert package.verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("exports", "PACKAGE_EXPORT_MISSING"),
        ("parity", "PACKAGE_PARITY_MISSING"),
        ("images", "PACKAGE_IMAGE_MISSING"),
        ("smoke", "PACKAGE_SMOKE_MISSING"),
    ],
)
def test_evidence_that_is_missing_is_never_a_pass(store: LocalStore, missing: str, code: str) -> None:
    package = samples.package(store, **{missing: []})
    assert package.verdict is Verdict.INCONCLUSIVE
    assert set(codes(package)) == {code}
    assert package.serving_format is None


def test_one_missing_cell_is_named(store: LocalStore) -> None:
    package = samples.package(store, smoke=smoked(without=("savedmodel", "c4.large")))
    assert package.verdict is Verdict.INCONCLUSIVE
    assert package.findings[0].message == "there is no smoke result for savedmodel on c4.large"


def test_parity_of_another_export_is_no_evidence(store: LocalStore) -> None:
    foreign = samples.parity_report(store, "onnx", export_digest=digest_of("another"))
    package = samples.package(store, parity=[foreign, samples.parity_report(store, "savedmodel")])
    assert package.verdict is Verdict.INCONCLUSIVE
    assert codes(package) == ["PACKAGE_PARITY_FOREIGN"]


def test_smoke_of_another_image_is_no_evidence(store: LocalStore) -> None:
    package = samples.package(store, smoke=smoked(cell=("onnx", "c6i.large"), image_digest=digest_of("another")))
    assert package.verdict is Verdict.INCONCLUSIVE
    assert codes(package) == ["PACKAGE_SMOKE_FOREIGN"]


def test_a_remark_does_not_block(store: LocalStore) -> None:
    remark = (samples.finding("SMOKE_EMULATED", verdict=Verdict.PASSED),)
    package = samples.package(store, smoke=smoked(cell=("onnx", "c6i.large"), findings=remark))
    assert package.verdict is Verdict.PASSED
    assert codes(package) == ["SMOKE_EMULATED"]


@given(dropped=st.sets(st.sampled_from(["exports", "parity", "images", "smoke"]), min_size=1), index=st.integers(0, 1))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_gap_whatsoever_passes(store: LocalStore, dropped: set[str], index: int) -> None:
    whole = samples.package(store)
    evidence = {name: [*getattr(whole, name)] for name in ("exports", "parity", "images", "smoke")}
    for name in dropped:
        del evidence[name][index]
    assert samples.package(store, **evidence).verdict is not Verdict.PASSED


def test_two_answers_for_one_cell_are_a_mistake(store: LocalStore) -> None:
    with pytest.raises(ValueError, match="two reports answer for onnx"):
        samples.package(store, images=[samples.image("onnx"), samples.image("onnx")])


def test_an_answer_that_nobody_asked_for_is_a_mistake(store: LocalStore) -> None:
    with pytest.raises(ValueError, match="not asked for"):
        samples.package(store, smoke=[*smoked(), samples.smoke_report("onnx", "m5.large")])


# --- what serves --------------------------------------------------------------------------------------------------


SMALL_SAVEDMODEL = [samples.image("onnx", size_bytes=200), samples.image("savedmodel", size_bytes=100)]


def test_the_smallest_image_serves(store: LocalStore) -> None:
    assert samples.package(store, images=SMALL_SAVEDMODEL).serving_format == "savedmodel"


def test_full_precision_serves_before_a_smaller_image_of_less(store: LocalStore) -> None:
    reduced = samples.export(store, "savedmodel").model_copy(update={"precision": "int8"})
    exports = [
        samples.export_report(store, "onnx"),
        ExportReport(verdict=Verdict.PASSED, format="savedmodel", export=reduced),
    ]
    assert samples.package(store, exports=exports, images=SMALL_SAVEDMODEL).serving_format == "onnx"


def test_what_serves_does_not_change_with_what_was_measured(store: LocalStore) -> None:
    def measured(onnx_ms: float, savedmodel_ms: float) -> str | None:
        figures = {"onnx": SmokeFigures(p99_ms=onnx_ms), "savedmodel": SmokeFigures(p99_ms=savedmodel_ms)}
        smoke = [samples.smoke_report(name, kind, figures=figures[name]) for name in FORMATS for kind in TYPES]
        return samples.package(store, smoke=smoke).serving_format

    assert measured(1.0, 9.0) == measured(9.0, 1.0)


def test_the_format_that_the_spec_asks_for_serves_though_its_image_is_larger(store: LocalStore) -> None:
    spec = samples.spec(serving=ServingSpec(format="onnx"))
    assert samples.package(store, spec, images=SMALL_SAVEDMODEL).serving_format == "onnx"


def test_a_format_that_is_asked_for_and_did_not_pass_leaves_nothing_to_serve(store: LocalStore) -> None:
    spec = samples.spec(serving=ServingSpec(format="onnx"))
    package = samples.package(store, spec, smoke=smoked(cell=("onnx", "c4.large"), verdict=Verdict.FAILED))
    assert package.serving_format is None


def test_a_format_that_is_asked_for_and_not_built_is_said(store: LocalStore) -> None:
    spec = samples.spec(serving=ServingSpec(format="torch-export"))
    package = samples.package(store, spec)
    assert package.verdict is Verdict.FAILED
    assert codes(package) == ["PACKAGE_SERVING_FORMAT_NOT_BUILT"]


# --- every format that the model can be ---------------------------------------------------------------------------


def without(name: str, code: str, store: LocalStore, *, every_format: bool) -> Package:
    """A package of which one format could not be exported, for the reason `code`."""
    spec = samples.spec().model_copy(update={"every_format": every_format})
    refused = samples.failed_export(name, code)
    others = [other for other in FORMATS if other != name]
    return assemble(
        spec,
        samples.artifact(store),
        [refused, *(samples.export_report(store, other) for other in others)],
        [samples.parity_report(store, other) for other in others],
        [samples.image(other) for other in others],
        [samples.smoke_report(other, kind) for other in others for kind in TYPES],
    )


@pytest.mark.parametrize("code", ["EXPORT_UNSUPPORTED_OPERATOR", "EXPORT_INPUT_UNBOUNDED"])
def test_what_cannot_express_the_model_is_left_out_of_all_and_said(store: LocalStore, code: str) -> None:
    package = without(FORMATS[0], code, store, every_format=True)
    assert package.verdict is Verdict.PASSED
    assert package.serving_format == FORMATS[1]
    [remark] = package.findings
    assert remark.verdict is Verdict.PASSED
    assert remark.message.startswith("left out of [all]: ")


@pytest.mark.parametrize(
    ("code", "every_format"),
    [
        ("EXPORT_UNSUPPORTED_OPERATOR", False),
        ("EXPORT_INPUT_UNBOUNDED", False),
        ("EXPORT_INPUT_BEYOND_TABLE", True),
        ("EXPORT_CRASHED", True),
        ("EXPORT_FAILED", True),
    ],
)
def test_a_format_by_name_and_any_other_failure_block(store: LocalStore, code: str, every_format: bool) -> None:
    assert without(FORMATS[0], code, store, every_format=every_format).verdict is Verdict.FAILED


def test_where_nothing_is_left_nothing_passes(store: LocalStore) -> None:
    spec = samples.spec().model_copy(update={"every_format": True})
    refused = [samples.failed_export(name, "EXPORT_UNSUPPORTED_OPERATOR") for name in FORMATS]
    assert assemble(spec, samples.artifact(store), refused, [], [], []).verdict is Verdict.FAILED


def test_a_failure_without_a_reason_is_not_left_out(store: LocalStore) -> None:
    spec = samples.spec().model_copy(update={"every_format": True})
    silent, others = ExportReport(verdict=Verdict.FAILED, format=FORMATS[0]), FORMATS[1:]
    package = assemble(
        spec,
        samples.artifact(store),
        [silent, *(samples.export_report(store, name) for name in others)],
        [samples.parity_report(store, name) for name in others],
        [samples.image(name) for name in others],
        [samples.smoke_report(name, kind) for name in others for kind in TYPES],
    )
    assert package.verdict is Verdict.FAILED
