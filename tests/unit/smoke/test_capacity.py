"""What a type bears: figures of what was seen, and the remark about requests that cost more than the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import Owner, Verdict
from tasks.smoke.bisection import Bracket
from tasks.smoke.capacity import accelerator_waits, capacity, remarks
from tasks.smoke.observation import Borne, Crowd, Limits, Observation
from tasks.smoke.spent import Spent

MIB = 2**20
GIB = 2**30
LIMITS = Limits(vcpus=2, memory_bytes=4 * GIB, type_vcpus=2, type_memory_bytes=4 * GIB)
SPENT = Spent(
    requests=1000,
    decode_s=0.1,
    queue_s=2.0,
    preprocess_s=0.2,
    inference_s=4.0,
    postprocess_s=0.1,
    request_rows=1000,
    batch_rows=4000,
)
BORNE = Borne(rate=500.0, asked=1000, mean_ms=9.0, p99_ms=40.0, late_send_ms=0.4, cpus=0.9, spent=SPENT)
SEEN = Observation(
    LIMITS, waited_s=1.0, borne=BORNE, crowd=Crowd(64, 32), memory=Bracket(200 * MIB, 196 * MIB, probes=7)
)


def test_what_was_not_measured_is_not_said() -> None:
    assert capacity(Observation(LIMITS, waited_s=1.0)) is None
    only_memory = capacity(replace(SEEN, borne=None))
    assert only_memory is not None
    assert only_memory.max_rate_rps is only_memory.p99_ms is only_memory.split is only_memory.cpus is None
    only_rate = capacity(replace(SEEN, memory=None))
    assert only_rate is not None
    assert only_rate.smallest_memory_bytes is only_rate.replicas is only_rate.headroom_bytes is None


def test_figures_are_those_that_were_seen() -> None:
    found = capacity(SEEN)
    assert found is not None
    assert (found.smallest_memory_bytes, found.too_little_memory_bytes) == (200 * MIB, 196 * MIB)
    assert found.headroom_bytes == 4 * GIB - 200 * MIB
    assert (found.max_rate_rps, found.p99_ms, found.requests, found.client_late_ms) == (500.0, 40.0, 1000, 0.4)
    assert (found.peak_clients, found.peak_batch) == (64, 32)


@pytest.mark.parametrize(
    ("cpus", "memory_mib", "replicas", "models"),
    [
        (0.9, 200, 2, 20),
        (1.1, 200, 1, 20),
        (None, 200, 2, 20),
        (0.1, 200, 20, 20),
        (0.9, 3000, 1, 1),
        (2.0, 200, 1, 20),
    ],
)
def test_replicas_need_cpus_and_memory_and_idle_models_memory_alone(
    cpus: float | None, memory_mib: int, replicas: int, models: int
) -> None:
    found = capacity(replace(SEEN, borne=replace(BORNE, cpus=cpus), memory=Bracket(memory_mib * MIB, None, probes=1)))
    assert found is not None
    assert (found.replicas, found.models) == (replicas, models)


def test_where_the_engine_does_not_hold_to_limits_no_memory_is_said() -> None:
    found = capacity(replace(SEEN, memory=Bracket(20 * MIB, None, probes=8)))
    assert found is not None
    assert found.smallest_memory_bytes is found.replicas is found.models is found.headroom_bytes is None


def test_what_this_host_could_not_give_still_fits_on_the_type() -> None:
    smaller = replace(LIMITS, memory_bytes=GIB, type_memory_bytes=8 * GIB, type_vcpus=8)
    found = capacity(replace(SEEN, limits=smaller))
    assert found is not None
    assert (found.models, found.replicas) == (40, 8)


def test_the_split_adds_up_to_the_mean_and_the_rest_is_waiting() -> None:
    found = capacity(SEEN)
    assert found is not None
    assert found.split is not None
    split = found.split
    assert (split.preprocess_ms, split.inference_ms, split.postprocess_ms) == (
        pytest.approx(0.3),
        pytest.approx(4.0),
        pytest.approx(0.1),
    )
    assert split.queue_ms == pytest.approx(9.0 - 4.4)


def dominated(**changes: float) -> Observation:
    return replace(SEEN, borne=replace(BORNE, spent=replace(SPENT, **changes)))


def test_a_model_that_is_most_of_the_work_is_not_remarked() -> None:
    assert remarks(SEEN) == []
    assert remarks(replace(SEEN, borne=None)) == []
    assert remarks(replace(SEEN, borne=replace(BORNE, spent=None))) == []


def test_preprocessing_that_is_most_of_the_work_is_remarked_with_what_it_costs() -> None:
    (remark,) = remarks(dominated(preprocess_s=9.9))
    assert (remark.code, remark.owner, remark.verdict) == (
        "SMOKE_PREPROCESSING_DOMINATES",
        Owner.MODEL,
        Verdict.PASSED,
    )
    # 10 s of preparation on two vCPUs: one request each 5 ms, of which the model takes a quarter of a batch's 4 ms.
    assert "90% of the work" in remark.message
    assert "wait 80% of its time for 2 vCPUs" in remark.message
    assert remark.evidence["accelerator_waits"] == pytest.approx(0.8)


def test_what_any_server_pays_for_a_request_is_not_remarked() -> None:
    assert remarks(dominated(preprocess_s=0.8, decode_s=0.1, inference_s=0.1)) == []
    assert remarks(dominated(preprocess_s=0.9, decode_s=0.2, inference_s=0.1))


def test_a_batch_is_not_counted_once_for_each_request_in_it() -> None:
    """4 s in all, but a quarter of each batch: the model's own work is 1 s, and preparation of 1.2 s is more."""
    assert remarks(dominated(preprocess_s=1.2, decode_s=0.0, postprocess_s=0.0))
    assert remarks(dominated(preprocess_s=1.2, decode_s=0.0, postprocess_s=0.0, batch_rows=1000)) == []


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0.25, 64))
def test_an_accelerator_waits_for_a_share_of_its_time(preparation: float, model: float, vcpus: float) -> None:
    of = replace(SPENT, decode_s=0.0, preprocess_s=preparation, inference_s=model, batch_rows=1000)
    assert 0 <= accelerator_waits(of, vcpus) <= 1
