"""Real models through the real exporters pass parity in the real runtimes, with room to spare.

`make bench-parity` asks every model of `tests.parity.corpus.clean` in every format; here is one pair of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.spec import Int8
from tests.parity.conftest import codes
from tests.parity.corpus.clean import CLEAN, PAIRS, Exports

ASKED = [
    ("cnn", "onnx"),
    ("cnn", "savedmodel"),
    ("cnn", "torch-export"),
    ("cnn", "torch-aoti"),
    ("transformer", "onnx"),
    ("recurrent", "torch-export"),
    ("program", "onnx"),
    ("keras_two", "onnx"),
    ("keras_cnn", "savedmodel"),
    ("savedmodel", "onnx"),
    ("classifier", "onnx"),
    ("columns", "onnx"),
    ("onnx_file", "onnx"),
    ("vision", "torch-export"),
    ("encoder", "torch-export"),
    ("tabular", "torch-export"),
    ("texts", "savedmodel"),
    ("rows", "savedmodel"),
    ("mlp", "onnx"),
    ("tiny", "onnx"),
    ("large", "onnx"),
    ("depthwise", "torch-export"),
    ("group_norm", "onnx"),
    ("norm_first", "torch-export"),
    ("convolution_1d", "torch-export"),
    ("autoencoder", "onnx"),
    ("gru", "torch-export"),
    ("embedding_bag", "torch-export"),
    ("cnn", "onnx-int8"),
    ("transformer", "onnx-int8"),
    ("transformer", "onnx-fp16"),
    ("vision", "onnx-fp16"),
    ("norm_first", "onnx-fp16"),
    ("recurrent", "onnx-int8"),
    ("tabular", "onnx-int8"),
    ("keras_cnn", "onnx-int8"),
    ("onnx_file", "onnx-fp16"),
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    found = Exports(tmp_path_factory.mktemp("clean"))
    yield found
    found.close()


@pytest.mark.parametrize(("name", "format"), ASKED)
def test_a_faithful_export_passes(name: str, format: str, exports: Exports) -> None:
    found = exports.judged(name, format)
    assert codes(found) == [], [finding.message for finding in found.findings]
    assert all((output.worst_margin or 0) < 0.5 for output in found.outputs)


def test_dynamic_int8_of_layers_that_share_weights_passes(exports: Exports) -> None:
    found = exports.judged("transformer", "onnx-int8", Int8.DYNAMIC)
    assert codes(found) == [], [finding.message for finding in found.findings]


def test_there_are_at_least_20_clean_models_and_each_is_asked_in_every_format_of_its_framework() -> None:
    assert len(CLEAN) >= 20
    assert {name for name, _ in PAIRS} == set(CLEAN)
    assert set(ASKED) <= set(PAIRS)
