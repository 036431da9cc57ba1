"""What the judge decides, on simulated releases."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.release.contracts import Decision, Sample
from tasks.release.judge import Judge
from tests.unit.release.judge.traffic import PLAN, SHADOW, Behaviour, Traffic, release, worse


def test_an_equal_version_is_promoted() -> None:
    done = release(Traffic(Behaviour(), Behaviour()))
    assert done.promoted, done.judgements[-1]
    assert done.samples[-1].step == 4


def test_twenty_times_as_many_errors_are_rolled_back_in_the_first_step() -> None:
    done = release(Traffic(Behaviour(), worse(errors=0.02)))
    assert done.decision is Decision.ROLL_BACK
    assert done.codes == {"RELEASE_ERRORS"}
    assert done.samples[-1].step == 0


def test_a_total_outage_is_rolled_back_within_two_looks() -> None:
    done = release(Traffic(Behaviour(), worse(errors=1.0)))
    assert done.decision is Decision.ROLL_BACK
    assert len(done.samples) <= 3


def test_an_incident_that_hits_both_decides_nothing() -> None:
    traffic = Traffic(Behaviour(), Behaviour())

    def incident(sample: Sample, traffic: Traffic) -> Sample:
        rate = 0.2 if 1_000_080 < sample.at < 1_000_110 else 0.001
        traffic.stable = traffic.canary = worse(errors=rate)
        return sample

    assert release(traffic, broken=incident).promoted


def test_a_version_that_breaks_under_more_traffic_is_rolled_back_in_that_step() -> None:
    def breaks(sample: Sample, traffic: Traffic) -> Sample:
        traffic.canary = worse(errors=0.3) if sample.step >= 3 else Behaviour()
        return sample

    done = release(Traffic(Behaviour(), Behaviour()), broken=breaks)
    assert (done.decision, done.samples[-1].step) == (Decision.ROLL_BACK, 3)


def test_pauses_that_each_version_has_by_itself_are_no_difference() -> None:
    rng = np.random.default_rng(0)

    def pausing(sample: Sample, traffic: Traffic) -> Sample:
        traffic.stable, traffic.canary = (worse(slow=0.2 if rng.random() < 0.1 else 0.005) for _ in range(2))
        return sample

    assert release(Traffic(Behaviour(), Behaviour(), seed=1), broken=pausing).decision is not Decision.ROLL_BACK


def test_numeric_scores_are_compared_by_their_bins() -> None:
    bins = {f"≤ {edge / 10:g}": 0.1 for edge in range(1, 11)}
    moved = bins | {"≤ 0.9": 0.16, "≤ 0.1": 0.04}
    done = release(Traffic(worse(mix=bins), worse(mix=moved)))
    assert done.codes == {"RELEASE_PREDICTIONS_MOVED"}


def test_more_slow_requests_are_rolled_back() -> None:
    done = release(Traffic(Behaviour(), worse(slow=0.05)))
    assert done.codes == {"RELEASE_SLOW"}


def test_a_moved_class_mix_is_rolled_back_and_named() -> None:
    done = release(Traffic(Behaviour(), worse(mix={"cat": 0.45, "dog": 0.3, "bird": 0.25})))
    [finding] = done.judgements[-1].findings
    assert finding.code == "RELEASE_PREDICTIONS_MOVED"
    assert finding.evidence["class"] in {"cat", "bird"}


def test_nan_with_status_200_counts_as_an_error() -> None:
    assert release(Traffic(Behaviour(), worse(nan=0.05))).codes == {"RELEASE_ERRORS"}


def test_folding_the_same_samples_again_gives_the_same_judgements() -> None:
    done = release(Traffic(Behaviour(), worse(errors=0.006)))
    judge = Judge(PLAN, SHADOW)
    assert tuple(judge.look(sample) for sample in done.samples) == done.judgements


def test_a_step_that_the_plan_does_not_have_is_an_error() -> None:
    sample = Traffic(Behaviour(), Behaviour()).second(0, 1).model_copy(update={"step": 5})
    with pytest.raises(ValueError, match="the plan has 5 steps"):
        Judge(PLAN, SHADOW).look(sample)
