"""The fault corpus through the real gate: every fault is blocked for the right reason, and its layer is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.parity.conftest import codes
from tests.parity.corpus.bases import Corpus
from tests.parity.corpus.fault import Fault
from tests.parity.corpus.table import FAULTS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    found = Corpus(tmp_path_factory.mktemp("corpus"))
    yield found
    found.close()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_blocked_for_the_right_reason(fault: Fault, corpus: Corpus) -> None:
    found = corpus.judged(fault.base, fault.format, corpus.broken(fault))
    assert fault.caught_by(codes(found)), [finding.message for finding in found.findings]


def test_the_layer_whose_answer_has_its_axes_moved_is_named_and_not_the_flattening_behind_it(corpus: Corpus) -> None:
    fault = next(fault for fault in FAULTS if str(fault) == "onnx-channels-last")
    path = corpus.broken(fault)
    assert corpus.diverging_layer(fault, corpus.judged(fault.base, fault.format, path), path) == "mix"


def test_every_fault_has_its_own_name() -> None:
    names = [str(fault) for fault in FAULTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("format", sorted({fault.format for fault in FAULTS}))
def test_there_are_at_least_25_faults_of_a_format(format: str) -> None:
    assert sum(fault.format == format for fault in FAULTS) >= 25
