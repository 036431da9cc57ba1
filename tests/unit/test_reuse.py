"""Keys: everything that a stage's result follows from is in, and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.contract import DimRange, PreprocessStep
from tasks import reuse
from tasks.contracts import Artifact, EvaluationData, ExportReport, Owner, SmokeReport, Verdict, digest_of
from tasks.export.formats import FORMATS
from tasks.manifest import package_inputs
from tasks.reuse import files_of, is_repeatable, is_whole, stage_key
from tasks.smoke.catalogue import instance_type
from tasks.spec import (
    EvaluationSpec,
    ExportSpec,
    Framework,
    Int8,
    MetricSpec,
    ModelSpec,
    ReleaseSpec,
    ServingSpec,
    SourceSpec,
)
from tasks.store import LocalStore
from tests import samples

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


class Keys:
    """The keys of every stage that looks at the spec and the artifact."""

    def __init__(self, store: LocalStore, spec: ModelSpec | None = None, artifact: Artifact | None = None) -> None:
        spec, artifact = spec or samples.spec(), artifact or samples.artifact(store)
        export = samples.export(store)
        self.ingest = stage_key("ingest", reuse.ingest_inputs(spec, digest_of("fingerprint")))
        self.export = stage_key("export", reuse.export_inputs(spec, artifact, "onnx"))
        self.parity = stage_key("parity", reuse.parity_inputs(spec, artifact, export))
        self.package = digest_of(package_inputs(spec, artifact))

    def changed(self, other: Keys) -> set[str]:
        return {name for name in vars(self) if getattr(self, name) != getattr(other, name)}


def metrics(**changes: Any) -> EvaluationSpec:
    values = {"name": "accuracy", "output": "logits", "label": "label", "max_drop": 0.005, **changes}
    return EvaluationSpec(data="artifacts/eval.npz", metrics=(MetricSpec(**values),))


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"evaluation": metrics(max_drop=0.5)}, {"parity", "package"}),
        ({"evaluation": metrics(name="f1")}, {"ingest", "parity", "package"}),
        ({"evaluation": metrics(label="other")}, {"ingest", "parity", "package"}),
        ({"evaluation": metrics(group="query")}, {"ingest", "parity", "package"}),
        ({"evaluation": metrics(callable="metric:profit")}, {"ingest", "parity", "package"}),
        ({"evaluation": metrics().model_copy(update={"confidence": 0.99})}, {"parity", "package"}),
        ({"owner": "other@example.com"}, {"package"}),
        ({"release": ReleaseSpec(bake="5m")}, {"package"}),
        ({"formats": ("onnx",)}, {"package"}),
        ({"export": ExportSpec(external_data=True)}, {"export", "package"}),
        ({"serving": ServingSpec(p99_ms=1)}, {"package"}),
        ({"serving": ServingSpec(max_batch=8)}, {"parity", "package"}),
        ({"dynamic": {"batch": DimRange(1, 8)}}, {"ingest", "export", "parity", "package"}),
        ({"preprocess": (PreprocessStep("scale", "pixels", by=2.0),)}, {"ingest", "export", "parity", "package"}),
        ({"source": SourceSpec(uri="other.keras", framework=Framework.KERAS)}, {"ingest", "package"}),
        ({"folder": Path("/somewhere/else")}, set()),
        ({"formats": tuple(reversed(samples.FORMATS))}, set()),
    ],
    ids=lambda value: " ".join(sorted(value)) or "nothing",
)
def test_a_changed_spec_changes_the_keys_of_what_follows_from_it(
    store: LocalStore, change: dict[str, Any], stages: set[str]
) -> None:
    assert Keys(store).changed(Keys(store, samples.spec(**change))) == stages


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda store: {"files": samples.tree(store, "retrained")}, {"export", "parity", "package"}),
        (lambda store: {"code": samples.tree(store, "model.py")}, {"export", "parity", "package"}),
        (lambda store: {"evaluation": evaluation(store, "other.npz")}, {"parity", "package"}),
        (lambda store: {"evaluation": measured_by(store, "metric.py")}, {"parity", "package"}),
        (lambda store: {"source_run": None}, set()),
        (lambda store: {"source_uri": "/another/clone/digits.keras"}, set()),
    ],
    ids=["bytes", "code", "evaluation", "metric", "run", "uri"],
)
def test_a_changed_artifact_changes_the_keys_of_what_follows_from_it(
    store: LocalStore, change: Callable[[LocalStore], dict[str, Any]], stages: set[str]
) -> None:
    changed = samples.artifact(store, **change(store))
    assert Keys(store).changed(Keys(store, artifact=changed)) == stages


def evaluation(store: LocalStore, name: str) -> EvaluationData:
    return samples.evaluation(store, name)


def test_only_onnx_exports_follow_from_where_weights_lie(store: LocalStore) -> None:
    beside = samples.spec(export=ExportSpec(external_data=True))
    of = [reuse.export_inputs(spec, samples.artifact(store), "savedmodel") for spec in (samples.spec(), beside)]
    assert of[0] == of[1]


def test_another_compiler_is_another_compiled_export_and_nothing_else(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ("onnx", "torch-aoti")

    def keys() -> dict[str, Any]:
        of = {name: reuse.export_inputs(samples.spec(), samples.artifact(store), name) for name in formats}
        return of | {f"package of {name}": reuse.pipeline_digest([name]) for name in formats}

    before = keys()
    monkeypatch.setattr("tasks.reuse.compiler_version", lambda: "99.0")
    assert {name for name, key in keys().items() if key != before[name]} == {"torch-aoti", "package of torch-aoti"}


def measured_by(store: LocalStore, name: str) -> EvaluationData:
    return samples.artifact(store).evaluation.model_copy(update={"code": samples.tree(store, name)})


def export_key(store: LocalStore, format: str, spec: ModelSpec, artifact: Artifact) -> str:
    return stage_key("export", reuse.export_inputs(spec, artifact, format))


def test_only_a_format_that_is_calibrated_follows_from_the_evaluation_data(store: LocalStore) -> None:
    artifact = samples.artifact(store)
    other = samples.artifact(store, evaluation=evaluation(store, "other.npz"))

    def follows(format: str, mode: Int8) -> bool:
        spec = samples.spec(export=ExportSpec(int8=mode))
        return export_key(store, format, spec, artifact) != export_key(store, format, spec, other)

    assert follows("onnx-int8", Int8.STATIC)
    assert not follows("onnx-int8", Int8.DYNAMIC)
    assert not any(follows(name, Int8.STATIC) for name in ("onnx", "onnx-fp16", "savedmodel"))


def test_only_formats_that_are_calibrated_or_check_no_index_follow_from_the_files_that_preprocess(
    store: LocalStore,
) -> None:
    artifacts = [samples.artifact(store, preprocess=samples.tree(store, name)) for name in ("one.json", "other.json")]
    follow = {name for name in FORMATS if len({export_key(store, name, samples.spec(), one) for one in artifacts}) > 1}
    assert follow == {"onnx-int8", "torch-aoti"}


def test_how_int8_finds_its_ranges_matters_to_int8_alone(store: LocalStore) -> None:
    artifact = samples.artifact(store)
    static, dynamic = (samples.spec(export=ExportSpec(int8=mode)) for mode in (Int8.STATIC, Int8.DYNAMIC))
    changed = {
        name
        for name in ("onnx", "onnx-int8", "onnx-fp16", "savedmodel")
        if export_key(store, name, static, artifact) != export_key(store, name, dynamic, artifact)
    }
    assert changed == {"onnx-int8"}


def test_comments_and_spacing_in_a_spec_do_not_matter(tmp_path: Path) -> None:
    from tasks.spec import load_spec

    example = ROOT / "examples" / "digits-cnn"
    text = (example / "model.yaml").read_text()
    for name in ("plain", "commented"):
        folder = tmp_path / name
        (folder / "artifacts").mkdir(parents=True)
        (folder / "model.py").write_text((example / "model.py").read_text())
        for file in ("digits.pt", "eval.npz"):
            (folder / "artifacts" / file).touch()
    (tmp_path / "plain" / "model.yaml").write_text(text)
    (tmp_path / "commented" / "model.yaml").write_text("# a comment\n\n" + text.replace(": ", ":   "))
    assert (
        load_spec(tmp_path / "plain" / "model.yaml").digest == load_spec(tmp_path / "commented" / "model.yaml").digest
    )


def test_the_fingerprint_decides_whether_ingest_runs() -> None:
    spec = samples.spec()
    keys = {stage_key("ingest", reuse.ingest_inputs(spec, digest_of(value))) for value in ("one", "other")}
    assert len(keys) == 2


def test_each_format_and_stage_has_its_own_key(store: LocalStore) -> None:
    spec, artifact = samples.spec(), samples.artifact(store)
    inputs = [reuse.export_inputs(spec, artifact, name) for name in ("onnx", "savedmodel")]
    assert len({stage_key("export", inputs[0]), stage_key("export", inputs[1]), stage_key("image", inputs[0])}) == 3


def smoke_key(store: LocalStore, **changes: Any) -> str:
    given: dict[str, Any] = {
        "served": samples.spec(),
        "image": samples.image(),
        "parity": samples.parity_report(store),
        "kind": instance_type("c4.large"),
        "host": digest_of("host"),
    }
    return stage_key("smoke", reuse.smoke_inputs(**{**given, **changes}))


def test_smoke_follows_from_image_type_machine_budgets_and_what_must_be_answered(store: LocalStore) -> None:
    slower = samples.spec(serving=ServingSpec(p99_ms=51))
    others = samples.parity_report(store, golden=samples.stored(store, "other.npz"))
    changes: list[dict[str, Any]] = [
        {"image": samples.image(digest=digest_of("another"))},
        {"kind": instance_type("c4.large").model_copy(update={"memory_bytes": 2**30})},
        {"host": digest_of("another")},
        {"served": slower},
        {"parity": others},
    ]
    assert len({smoke_key(store), *(smoke_key(store, **change) for change in changes)}) == 6


def test_what_a_type_bears_follows_from_the_vcpus_alone_and_all_else_of_smoke(store: LocalStore) -> None:
    def key(**changes: Any) -> str:
        given: dict[str, Any] = {
            "served": samples.spec(),
            "image": samples.image(),
            "parity": samples.parity_report(store),
            "vcpus": 2.0,
            "host": digest_of("host"),
        }
        return stage_key("smoke", reuse.capacity_inputs(**{**given, **changes}))

    changes: list[dict[str, Any]] = [
        {"vcpus": 4.0},
        {"image": samples.image(digest=digest_of("another"))},
        {"host": digest_of("another")},
        {"served": samples.spec(serving=ServingSpec(p99_ms=51))},
    ]
    assert len({key(), smoke_key(store), *(key(**change) for change in changes)}) == 6


def test_smoke_does_not_follow_from_what_the_image_says_itself_nor_from_how_parity_came_about(
    store: LocalStore,
) -> None:
    threads = samples.spec(serving=ServingSpec(threads=2), owner="others@example.com")
    assert smoke_key(
        store, served=threads, parity=samples.parity_report(store, batch_sizes=(1,), metrics=())
    ) == smoke_key(store)


# --- code ---------------------------------------------------------------------------------------------------------


def test_every_source_of_every_stage_is_there() -> None:
    missing = [source for sources in reuse.CODE.values() for source in sources if not (ROOT / source).exists()]
    assert missing == []


#: What stages import and what yet decides no result: how bytes are kept, how errors are said, where things are.
NEUTRAL = {
    "docker/serving/__init__.py",
    "tasks/__init__.py",
    "tasks/lineage/__init__.py",
    "tasks/lineage/tracking.py",
    "tasks/errors.py",
    "tasks/processes.py",
    "tasks/settings.py",
    "tasks/spec_document.py",
    "tasks/spec_draft.py",
    "tasks/spec_hints.py",
    "tasks/spec_keys.py",
    "tasks/store.py",
    "tasks/workspace.py",
}

#: Covered, but not what they import: what a spec said is in the inputs, and of the runtimes only the locks count.
ENDS = {"tasks/spec.py", "tasks/image/runtimes.py"}


@pytest.mark.parametrize("stage", list(reuse.CODE))
def test_a_stages_code_covers_all_that_it_imports(stage: str) -> None:
    """Otherwise a changed module would leave stale results standing."""
    covered = [Path(name) for name in (*reuse.CODE[stage], *NEUTRAL)]
    imported = closure(ROOT / "tasks" / stage)
    assert imported
    assert {str(path) for path in imported if not {path, *path.parents} & set(covered)} == set()


def closure(folder: Path) -> set[Path]:
    """The repository's files that a folder's modules import, also inside functions, and what those import."""
    found, todo = set[Path](), list(folder.rglob("*.py"))
    while todo:
        path = todo.pop()
        if path.relative_to(ROOT) in found:
            continue
        found.add(path.relative_to(ROOT))
        if path.relative_to(ROOT).as_posix() not in NEUTRAL | ENDS:
            todo.extend(imported(path))
    return found


def imported(path: Path) -> Iterator[Path]:
    tree = ast.parse(path.read_text())
    for_types = {id(inner) for node in ast.walk(tree) if _is_for_types(node) for inner in ast.walk(node)}
    for node in (node for node in ast.walk(tree) if id(node) not in for_types):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in {"tasks", "serving"} and (found := source_of(name)):
                yield found


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def source_of(name: str) -> Path | None:
    path = (ROOT / "docker" if name.startswith("serving") else ROOT).joinpath(*name.split("."))
    found = [path.with_suffix(".py"), path / "__init__.py"]
    return next((file for file in found if file.is_file()), None)  # none: a name inside a module


def digest_of_tree(root: Path) -> str:
    return reuse._digest_of_files(root, ("tasks/export", "tasks/spec.py"))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "tasks" / "export").mkdir(parents=True)
    (tmp_path / "tasks" / "spec.py").write_text("spec")
    (tmp_path / "tasks" / "export" / "onnx.py").write_text("onnx")
    return tmp_path


def test_code_is_identified_by_paths_and_bytes(code: Path) -> None:
    before = digest_of_tree(code)
    (code / "tasks" / "export" / "onnx.py").write_text("changed")
    changed = digest_of_tree(code)
    (code / "tasks" / "export" / "onnx.py").rename(code / "tasks" / "export" / "other.py")
    assert len({before, changed, digest_of_tree(code)}) == 3


def test_what_python_and_editors_leave_behind_is_no_code(code: Path) -> None:
    before = digest_of_tree(code)
    (code / "tasks" / "export" / "__pycache__").mkdir()
    (code / "tasks" / "export" / "__pycache__" / "onnx.cpython-311.pyc").write_bytes(b"compiled")
    (code / "tasks" / "export" / ".onnx.py.swp").write_text("edited")
    assert digest_of_tree(code) == before


# --- what may be taken again --------------------------------------------------------------------------------------


def report_of(verdict: Verdict, owner: Owner = Owner.MODEL) -> SmokeReport:
    findings = () if verdict is Verdict.PASSED else (samples.finding(verdict=verdict, owner=owner),)
    return samples.smoke_report(verdict=verdict, findings=findings)


@pytest.mark.parametrize(
    ("stage", "verdict", "owner", "repeatable"),
    [
        ("export", Verdict.PASSED, Owner.MODEL, True),
        ("export", Verdict.FAILED, Owner.MODEL, True),
        ("parity", Verdict.FAILED, Owner.DATA, True),
        ("export", Verdict.FAILED, Owner.PLATFORM, False),
        ("parity", Verdict.INCONCLUSIVE, Owner.MODEL, False),
        ("smoke", Verdict.PASSED, Owner.MODEL, True),
        ("smoke", Verdict.FAILED, Owner.MODEL, False),
        ("smoke", Verdict.INCONCLUSIVE, Owner.MODEL, False),
    ],
)
def test_only_what_would_come_out_the_same_is_remembered(
    stage: str, verdict: Verdict, owner: Owner, repeatable: bool
) -> None:
    assert is_repeatable(stage, report_of(verdict, owner)) is repeatable


def test_a_remark_about_the_platform_does_not_make_a_failure_forgettable() -> None:
    remark = samples.finding("EXPORT_REMARK", owner=Owner.PLATFORM, verdict=Verdict.PASSED)
    report = ExportReport(verdict=Verdict.FAILED, findings=(samples.finding(), remark), format="onnx")
    assert is_repeatable("export", report)


def test_what_is_no_report_is_repeatable(store: LocalStore) -> None:
    assert is_repeatable("ingest", samples.artifact(store))
    assert is_repeatable("image", samples.image())


def test_a_packages_files_are_all_that_it_refers_to(store: LocalStore) -> None:
    found = {file.path for file in files_of(samples.package(store))}
    assert found == {"digits.keras", "eval.npz", "model.onnx", "model.savedmodel", "golden.npz", "report.html"} | {
        "index.html"
    }


def test_a_result_is_whole_only_with_every_object(store: LocalStore) -> None:
    package = samples.package(store)
    assert is_whole(package, store)
    for file in set(files_of(package)):
        content = store._object(file.digest).read_bytes()
        store._object(file.digest).unlink()
        assert not is_whole(package, store)
        store._object(file.digest).write_bytes(content)
