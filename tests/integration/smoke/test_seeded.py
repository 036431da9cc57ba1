"""The quick part of the seeded set: each bad image is blocked by the finding with its name, each good one passes.

`make bench-smoke` runs all of it.
"""

from __future__ import annotations

import pytest

from tests.integration.smoke.bench import PATIENT
from tests.integration.smoke.packages import Packages
from tests.integration.smoke.seeded import BAD, GOOD, Case

pytestmark = pytest.mark.docker

_QUICK = {"missing library", "wrong answer under load", "memory hog", "AVX-512 trap"}
_GOOD = {"digits, convolutions in int8"}


@pytest.mark.parametrize("case", [case for case in BAD if case.name in _QUICK], ids=lambda case: case.name)
def test_a_bad_image_is_blocked_by_the_finding_with_its_name(packages: Packages, case: Case) -> None:
    bench, image = case.make(packages)
    report = bench.smoke(image, kind=case.kind(), serving=case.serving or PATIENT)
    assert case.is_right(report), report.findings
    assert len(report.findings) == 1


@pytest.mark.parametrize(
    "case", [case for case in GOOD if case.name in _GOOD and case.emulated], ids=lambda case: case.name
)
def test_a_good_image_passes(packages: Packages, case: Case) -> None:
    bench, image = case.make(packages)
    report = bench.smoke(image, kind=case.kind(), serving=case.serving or PATIENT)
    assert case.is_right(report), report.findings


def test_the_set_has_ten_kinds_of_bad_images_and_six_of_good_ones_each_with_a_name() -> None:
    assert len({case.name for case in BAD}) == len(BAD)
    assert len({case.name for case in GOOD}) >= 6
    assert {case.name for case in GOOD if case.emulated} == {case.name for case in GOOD if not case.emulated}
