"""Arrays in files: the same content, the same bytes; strings come back as they were."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest

from tasks.parity.arrays import load, npz_bytes, save


def test_the_same_content_gives_the_same_bytes_at_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"b": np.arange(3), "a": np.array(["x", "yz"], dtype=object)}
    first = npz_bytes(content)
    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time((2031, 5, 6, 7, 8, 9, 0, 1, 0)))
    assert npz_bytes(dict(reversed(content.items()))) == first


def test_golden_samples_open_without_pickle() -> None:
    archive = np.load(io.BytesIO(npz_bytes({"input/x": np.array(["ä", ""], dtype=object)})), allow_pickle=False)
    assert archive["input/x"].tolist() == ["ä", ""]


def test_objects_that_are_no_strings_are_refused() -> None:
    with pytest.raises(ValueError, match="neither strings nor bytes"):
        npz_bytes({"x": np.array([1, "a"], dtype=object)})


def test_what_is_saved_comes_back_in_dtype_shape_and_value(tmp_path: Path) -> None:
    content = {
        "floats": np.float16([[1, np.nan]]),
        "nothing": np.zeros((0, 3), dtype=np.int8),
        "flags": np.array([True, False]),
        "single": np.array(3.5),
        "text": np.array([["a\0", "é"], ["", "b "]], dtype=object),
        "output/with a slash": np.arange(2, dtype=np.uint64),
    }
    save(tmp_path / "x.npz", content)
    found = load(tmp_path / "x.npz")
    assert found.keys() == content.keys()
    for name, array in content.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
