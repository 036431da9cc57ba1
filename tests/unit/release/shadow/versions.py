"""Two versions of a small model, and pairs of their answers, made by hand: what shadow's judge is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DimRange, DType, Signature, TensorSpec, Tolerance
from tasks.contracts import MetricComparison, OutputComparison, ParityReport, Verdict, digest_of
from tasks.release.shadow.expectations import Expectations, Version
from tasks.release.shadow.replay import Answer, Fault, Pair, Replay
from tasks.release.shadow.requests import Origin, Request, Sizes, Table, plan
from tasks.spec import EvaluationSpec, MetricSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT64, ("batch", 3)),),
    outputs=(TensorSpec("y", DType.FLOAT64, ("batch", 3)),),
    dynamic={"batch": DimRange(1, 16)},
)
ROWS = 1200
X = np.random.default_rng(7).normal(size=(ROWS, 3))
SIZES = Sizes((1, 2, 3, 7, 16), 16)
Model = Callable[[NDArray[Any]], NDArray[Any]]


def as_it_is(x: NDArray[Any]) -> NDArray[Any]:
    """The model of today: the largest input names the class."""
    return x.copy()


def parity(tolerance: float = 1e-6, accuracy: float = 1.0, **changes: Any) -> ParityReport:
    output = OutputComparison(
        name="y",
        compared_values=1,
        max_abs_diff=0.0,
        max_rel_diff=0.0,
        worst_margin=0.0,
        tolerance=Tolerance(tolerance, 0.0),
    )
    metric = MetricComparison(
        name="accuracy", source=accuracy, export=accuracy, drop=0.0, max_drop=0.02, rows=ROWS, upper=0.01
    )
    values: dict[str, Any] = {
        "verdict": Verdict.PASSED,
        "format": "onnx",
        "export_digest": digest_of("export"),
        "batch_sizes": (1,),
        "outputs": (output,),
        "metrics": (metric,),
    }
    return ParityReport(**{**values, **changes})


def version(artifact: str = "one", **changes: Any) -> Version:
    values: dict[str, Any] = {
        "model": "m",
        "raw": SIGNATURE,
        "preprocess": (),
        "artifact": digest_of(artifact),
        "parity": parity(),
        "contract": digest_of("contract"),
        "max_batch": 16,
    }
    return Version(**{**values, **changes})


def expectations(kind: str = "equivalent", **changes: Any) -> Expectations:
    metrics = (MetricSpec(name="accuracy", output="y", label="label", max_drop=0.02),)
    values: dict[str, Any] = {
        "kind": kind,
        "asked": 1000,
        "new": version(),
        "old": None if kind == "first" else version(),
        "p99_ms": 50.0,
        "evaluation": EvaluationSpec(data="eval.npz", metrics=metrics),
        "labels": {"label": X.argmax(1)},
    }
    return Expectations(**{**values, **changes})


def requests(asked: int = 1000, rows: int = ROWS, golden_of: Model = as_it_is) -> tuple[Request, ...]:
    """Golden samples of a model, and evaluation rows."""
    golden = Table(Origin.GOLDEN, {"x": X[:8]}, 8, {"y": golden_of(X[:8])})
    return plan(asked, SIZES, [golden], (), Table(Origin.EVALUATION, {"x": X[:rows]}, rows))


def pairs(
    new: Model = as_it_is, old: Model | None = as_it_is, asked: Sequence[Request] | None = None, took_ms: float = 1.0
) -> Replay:
    """What both would answer; golden samples are the new model's own, unless others are asked."""
    found = []
    for number, request in enumerate(requests(golden_of=new) if asked is None else asked):
        x = np.asarray(request.inputs["x"])
        before = None if old is None else Answer(took_ms, {"y": old(x)})
        found.append(Pair(request, f"shadow-{number}", Answer(took_ms, {"y": new(x)}), before))
    return Replay(tuple(found))


def failing(of: Replay, at: Sequence[int], fault: Fault, said: str, whose: str = "new") -> Replay:
    """Some requests without an answer."""
    found = list(of.pairs)
    for place in at:
        pair = found[place]
        answer = Answer(1.0, fault=fault, said=said)
        found[place] = Pair(
            pair.request, pair.id, answer if whose == "new" else pair.new, answer if whose == "old" else pair.old
        )
    return Replay(tuple(found), of.stopped)
