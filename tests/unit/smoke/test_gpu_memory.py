"""Planning a GPU's memory: models times instances, and nothing that is promised does not fit."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.smoke.accelerators import load_accelerators
from tasks.smoke.catalogue import instance_type
from tasks.smoke.gpu_memory import InstanceGroup, plan, usable_bytes

GIB = 2**30
TABLE = load_accelerators()
SIZES = st.integers(0, 8 * GIB)
GROUPS = st.builds(InstanceGroup, st.just("m"), SIZES, SIZES, instances=st.integers(1, 8), shares_weights=st.booleans())


def usable(name: str) -> int:
    gpu = instance_type(name).gpu
    assert gpu is not None
    return usable_bytes(gpu, TABLE)


def test_error_correction_takes_its_share_of_gddr_and_none_of_hbm() -> None:
    assert usable("g4dn.xlarge") == 15 * GIB  # what nvidia-smi says of a T4 of 16 GB
    assert usable("p4d.24xlarge") == 40 * GIB


def test_several_models_that_fit_one_by_one_do_not_fit_together() -> None:
    detector, classifier = InstanceGroup("detector", 4 * GIB, 2 * GIB), InstanceGroup("classifier", 3 * GIB, GIB, 2)
    ranker = InstanceGroup("ranker", 2 * GIB, GIB)
    alone = [plan([group], usable("g4dn.xlarge"), TABLE.runtime) for group in (detector, classifier, ranker)]
    together = plan([detector, classifier, ranker], usable("g4dn.xlarge"), TABLE.runtime)
    assert all(one.fits for one in alone)
    assert together.certainly_too_large
    assert together.headroom_bytes < 0


def test_every_instance_holds_its_weights_unless_they_are_shared() -> None:
    group = InstanceGroup("m", weights_bytes=3 * GIB, workspace_bytes=GIB, instances=4)
    assert group.needed_bytes == 16 * GIB
    assert replace(group, shares_weights=True).needed_bytes == 7 * GIB


@given(groups=st.lists(GROUPS, min_size=1, max_size=3))
def test_as_many_instances_as_are_said_fit_and_one_more_does_not(groups: list[InstanceGroup]) -> None:
    first, *others = groups
    most = plan(groups, 15 * GIB, TABLE.runtime).most_instances(first)
    assume(most is not None)
    assert most is not None
    if most:
        assert plan([replace(first, instances=most), *others], 15 * GIB, TABLE.runtime).fits
    assert not plan([replace(first, instances=most + 1), *others], 15 * GIB, TABLE.runtime).fits


@given(groups=st.lists(GROUPS, min_size=1, max_size=3))
def test_what_certainly_does_not_fit_never_fits(groups: list[InstanceGroup]) -> None:
    planned = plan(groups, 15 * GIB, TABLE.runtime)
    assert not (planned.fits and planned.certainly_too_large)


def test_a_model_of_no_size_has_no_most_number_of_instances() -> None:
    nothing = InstanceGroup("m", 0, 0)
    assert plan([nothing], GIB, TABLE.runtime).most_instances(nothing) is None
