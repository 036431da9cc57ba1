"""Parity where there is no memory for the source's float64 version: it goes on, says so, and still blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.contracts import Finding
from tasks.export.formats import FORMATS
from tasks.parity.confrontation import Judgement
from tasks.parity.room import shortage
from tests.parity.conftest import codes, confronted
from tests.parity.corpus.bases import BASES, Corpus
from tests.parity.corpus.table import FAULTS

SOURCES = [("tabular", "onnx"), ("rows", "savedmodel")]  # PyTorch, Keras


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    found = Corpus(tmp_path_factory.mktemp("corpus"))
    yield found
    found.close()


def judged(corpus: Corpus, base: str, format: str, path: Path, work: Path, free_bytes: int) -> Judgement:
    source, loader = corpus.source(base)
    entry = BASES[base]
    rows = entry.rows(np.random.default_rng(0))
    runtime = FORMATS[format].runtime
    return confronted(source, loader, entry.signature, rows, runtime, path, work, corpus.workers, free_bytes=free_bytes)


def remarks(judgement: Judgement) -> list[Finding]:
    return [finding for finding in judgement.findings if finding.code == "PARITY_NO_FLOAT64_VERSION"]


def has_twin(judgement: Judgement) -> bool:
    return any(noise.twin for reference in judgement.references for noise in reference.noise.values())


@pytest.mark.parametrize(("base", "format"), SOURCES)
def test_a_faithful_export_passes_with_a_remark(corpus: Corpus, base: str, format: str, tmp_path: Path) -> None:
    short = shortage(*corpus.source(base), free_bytes=0)
    assert short is not None
    path = corpus.export(base, format)
    found = judged(corpus, base, format, path, tmp_path, short.needed_bytes - 1)
    assert codes(found) == []
    assert not has_twin(found)
    (remark,) = remarks(found)
    assert remark.evidence["weights_bytes"] == short.weights_bytes > 0
    assert "without a float64 version" in remark.message


@pytest.mark.parametrize(("base", "format"), SOURCES)
def test_with_just_enough_memory_the_version_is_made(corpus: Corpus, base: str, format: str, tmp_path: Path) -> None:
    short = shortage(*corpus.source(base), free_bytes=0)
    assert short is not None
    found = judged(corpus, base, format, corpus.export(base, format), tmp_path, short.needed_bytes)
    assert remarks(found) == []
    assert has_twin(found)


def test_a_fault_is_blocked_without_the_version_too(corpus: Corpus, tmp_path: Path) -> None:
    fault = next(fault for fault in FAULTS if str(fault) == "onnx-stale-bias")
    found = judged(corpus, fault.base, fault.format, corpus.broken(fault), tmp_path, 0)
    assert fault.caught_by(codes(found)), [finding.message for finding in found.findings]
    assert len(remarks(found)) == 1


def test_a_source_that_has_no_such_version_is_not_remarked_on() -> None:
    assert shortage(object(), "skops", free_bytes=0) is None  # type: ignore[arg-type]
