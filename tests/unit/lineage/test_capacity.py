"""What an instance type bears reaches the package's history as metrics of its cell."""

from __future__ import annotations

from pathlib import Path

from tasks.contracts import Capacity, LatencySplit
from tasks.lineage.evidence import of_stages
from tasks.store import LocalStore
from tests import samples


def test_a_cells_run_holds_what_was_measured_of_its_capacity_and_nothing_else(tmp_path: Path) -> None:
    split = LatencySplit(queue_ms=1.0, preprocess_ms=0.2, inference_ms=3.0, postprocess_ms=0.1)
    bears = Capacity(smallest_memory_bytes=1 << 27, max_rate_rps=900.0, p99_ms=40.0, split=split)
    made = samples.package(
        LocalStore(tmp_path),
        smoke=[samples.smoke_report(capacity=bears), samples.smoke_report(instance_type="c4.large")],
    )
    cells = {each.label: each.metrics for each in of_stages(made) if each.stage == "smoke"}
    measured, plain = cells["onnx × c6i.large"], cells["onnx × c4.large"]
    assert measured["capacity.smallest_memory_bytes"] == 1 << 27
    assert measured["capacity.max_rate_rps"] == 900.0
    assert (measured["p99_ms"], measured["capacity.p99_ms"]) == (2.0, 40.0)
    assert measured["capacity.inference_ms"] == 3.0
    assert {name for name in measured if name.startswith("capacity.")} == {
        *(f"capacity.{name}" for name in ("smallest_memory_bytes", "max_rate_rps", "p99_ms")),
        *(f"capacity.{name}_ms" for name in ("queue", "preprocess", "inference", "postprocess")),
    }
    assert not any(name.startswith("capacity.") for name in plain)
