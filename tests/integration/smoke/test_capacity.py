"""What an instance type bears of a real image: its smallest memory, its highest rate, and right answers meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contracts import Verdict, digest_of
from tasks.smoke.bisection import Bracket
from tasks.smoke.earlier import Earlier
from tasks.store import LocalStore
from tests.integration.smoke.bench import MIB, QUICK, Bench, Spoil, around_run, needing, only

pytestmark = pytest.mark.docker

#: No more than what shows something.
LOADED = replace(QUICK, load_within_s=3)


def test_the_smallest_memory_is_within_five_per_cent_of_a_known_need(bench: Bench, spoil: Spoil) -> None:
    need = 300 * MIB
    report = bench.smoke(spoil(needing(need)), effort=replace(QUICK, memory_within_s=120))
    assert report.verdict is Verdict.PASSED
    found = report.capacity
    assert found is not None
    assert found.smallest_memory_bytes is not None
    assert found.too_little_memory_bytes is not None
    assert found.too_little_memory_bytes < found.smallest_memory_bytes
    assert 0.95 * need < found.smallest_memory_bytes < 1.05 * need
    assert found.models == bench.kind.memory_bytes // found.smallest_memory_bytes
    assert found.replicas == 1  # the type has one vCPU
    assert found.peak_batch == 8
    assert found.max_rate_rps is None


def test_the_highest_rate_is_told_with_where_the_time_goes(bench: Bench) -> None:
    report = bench.smoke(bench.good, effort=LOADED)
    assert report.verdict is Verdict.PASSED
    found = report.capacity
    assert found is not None
    assert found.max_rate_rps is not None
    assert found.max_rate_rps > 0
    assert found.requests is not None
    assert found.requests > 299
    assert found.p99_ms is not None
    assert found.cpus is not None
    assert 0 < found.cpus <= 1.2
    assert found.split is not None
    assert min(found.split.preprocess_ms, found.split.inference_ms, found.split.postprocess_ms) > 0
    assert found.smallest_memory_bytes is None


def test_what_one_type_bears_is_taken_for_the_next_with_as_many_vcpus(bench: Bench, tmp_path: Path) -> None:
    """Its own start, answers, latency and peak load are seen all the same."""
    earlier = Earlier(LocalStore(tmp_path), digest_of("one vCPU"))
    effort = replace(LOADED, memory_within_s=120)
    first = bench.smoke(bench.good, effort=effort, earlier=earlier)
    larger = bench.kind.model_copy(update={"name": "larger", "memory_bytes": 2048 * MIB})
    second = bench.smoke(bench.good, effort=effort, earlier=earlier, kind=larger)
    assert (first.verdict, second.verdict) == (Verdict.PASSED, Verdict.PASSED)
    measured, taken = first.capacity, second.capacity
    assert measured is not None
    assert taken is not None
    assert (measured.rate_measured_on, measured.memory_measured_on) == (None, None)
    assert (taken.rate_measured_on, taken.memory_measured_on) == ("test-type", "test-type")
    assert taken.max_rate_rps == measured.max_rate_rps
    assert taken.smallest_memory_bytes == measured.smallest_memory_bytes
    assert taken.headroom_bytes == 2048 * MIB - (measured.smallest_memory_bytes or 0)
    assert taken.peak_clients is not None
    assert second.figures.p99_ms != first.figures.p99_ms


def test_a_type_with_less_than_was_found_to_be_needed_is_still_caught(
    bench: Bench, spoil: Spoil, tmp_path: Path
) -> None:
    earlier = Earlier(LocalStore(tmp_path), digest_of("one vCPU"))
    earlier.keep("large", memory=Bracket(300 * MIB, 296 * MIB, 7))
    small = bench.kind.model_copy(update={"name": "small", "memory_bytes": 250 * MIB})
    report = bench.smoke(
        spoil(needing(300 * MIB)), effort=replace(QUICK, memory_within_s=120), earlier=earlier, kind=small
    )
    assert only(report) == "SMOKE_OUT_OF_MEMORY"


def test_an_answer_that_is_wrong_under_load_only_is_told_apart(bench: Bench, spoil: Spoil) -> None:
    image = spoil(
        around_run(
            """
            served = []
            def change(inputs, run):
                served.append(1)
                answer = run(inputs)
                return answer | {"y": answer["y"] + (len(served) > 250)}
            """
        )
    )
    report = bench.smoke(image, effort=LOADED)
    assert only(report) == "SMOKE_WRONG_ANSWER_LOAD"
    assert "many clients" in report.findings[0].message
