"""An image model whose training code did something else than is declared: it blocks, and what differs is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from serving.contract import DimRange, DType, Layout, PreprocessStep, Signature, TensorSpec
from tasks.contracts import Finding, Owner, Verdict
from tests.unit.parity.skew.conftest import held, trained_on
from tests.unit.serving.preprocess.conftest import column

OF = Signature(
    inputs=(TensorSpec("pixels", DType.FLOAT32, ("batch", 3, 24, 24)),),
    outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 1)),),
    dynamic={"batch": DimRange(1, 64)},
)
STEPS = (
    PreprocessStep("decode_image", "pixels", source="image"),
    PreprocessStep("resize", "pixels", size=(32,)),
    PreprocessStep("crop", "pixels", size=(24, 24)),
    PreprocessStep("layout", "pixels", to=Layout.CHW),
    PreprocessStep("scale", "pixels", by=1 / 255),
    PreprocessStep("standardize", "pixels", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), axis=1),
)


def found(photos: list[bytes], fed: np.ndarray, atol: float = 0.0) -> tuple[Finding, ...]:
    return held(STEPS, OF, {"image": column(*photos)}, {"pixels": fed}, atol=atol)


def test_training_code_that_does_what_is_declared_passes(photos: list[bytes]) -> None:
    assert found(photos, trained_on(photos)) == ()
    assert found(photos, trained_on(photos)[:2]) == ()


def test_constants_written_in_levels_are_the_same_up_to_rounding(photos: list[bytes]) -> None:
    mean, std = np.float32([0.485, 0.456, 0.406]) * 255, np.float32([0.229, 0.224, 0.225]) * 255
    fed = trained_on(photos, divide=1.0, mean=tuple(mean), std=tuple(std))
    assert not np.array_equal(fed, trained_on(photos))
    assert found(photos, fed) == ()


@pytest.mark.parametrize(
    ("otherwise", "cause", "said"),
    [
        ({"bgr": True}, "channel_order", "training's channels are in the order bgr, the declared steps decode rgb"),
        ({"method": Image.Resampling.BICUBIC}, "interpolation", "resampled by bicubic, the declared steps by bilinear"),
        ({"method": Image.Resampling.LANCZOS}, "interpolation", "resampled by lanczos"),
        ({"method": Image.Resampling.NEAREST}, "interpolation", "resampled by nearest"),
        ({"bgr": True, "method": Image.Resampling.BICUBIC}, "channels_and_interpolation", "in the order bgr"),
        ({"shorter": 29}, "size", "training resized the shorter side to 29, the declared steps to 32"),
        ({"crop": None}, "crop_left_out", "training resized to 24 × 24 directly"),
        ({"corner": True}, "crop", "from row 0 and column 0 on, the declared steps from 4 and 12"),
        ({"mirror": True}, "mirrored", "mirrored left to right"),
        ({"divide": 1.0}, "step_left_out", "training did not take the step scale"),
        ({"divide": 127.5}, "constants", "as if standardize had mean"),
        ({"mean": (0.5,) * 3, "std": (0.5,) * 3}, "constants", "mean 0.5 and std 0.5, not 0.485 and 0.229"),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, "step_left_out", "training did not take the step standardize"),
        ({"mean": (0.406, 0.456, 0.485)}, "constants", "at position 0 of axis 1 (and 1 others)"),
    ],
)
def test_a_skew_blocks_and_is_named(photos: list[bytes], otherwise: dict, cause: str, said: str) -> None:
    (finding,) = found(photos, trained_on(photos, **otherwise))
    assert (finding.code, finding.verdict, finding.owner) == (
        "PARITY_PREPROCESS_DIFFERS",
        Verdict.FAILED,
        Owner.MODEL,
    )
    assert finding.evidence["cause"] == cause
    assert said in finding.message


def test_the_first_differing_element_is_told_with_both_values(photos: list[bytes]) -> None:
    fed = trained_on(photos)
    fed[2, 1, 5, 7] += 0.25
    (finding,) = found(photos, fed)
    assert finding.message.startswith(
        "input 'pixels' is not what training fed the model: first at row 2, position [1, 5, 7]: training "
    )
    assert "1 of 6912 values differ" in finding.message
    assert (finding.evidence["row"], finding.evidence["position"]) == (2, "[1, 5, 7]")
    assert finding.evidence["largest_difference"] == pytest.approx(0.25, rel=1e-5)
    assert "cause" not in finding.evidence


def test_a_single_level_in_a_single_pixel_is_seen(photos: list[bytes]) -> None:
    fed = trained_on(photos)
    fed[0, 0, 0, 0] += np.float32(1 / 255 / 0.229)
    (finding,) = found(photos, fed)
    assert finding.evidence["cause"] == "another_decoder_or_rounding"
    assert "1.0 of 256 levels" in finding.message


def test_another_decoders_levels_can_be_allowed(photos: list[bytes]) -> None:
    levels = np.random.default_rng(0).integers(-1, 2, size=(len(photos), 3, 24, 24)) / 255 / 0.229
    fed = (trained_on(photos) + levels).astype(np.float32)
    assert found(photos, fed)
    assert found(photos, fed, atol=0.02) == ()


def test_rows_that_were_saved_in_another_order_are_the_datas_fault(photos: list[bytes]) -> None:
    (finding,) = found(photos, trained_on(photos)[[2, 0, 1, 3]])
    assert (finding.owner, finding.evidence["cause"]) == (Owner.DATA, "rows_in_another_order")


def test_nan_is_never_what_is_declared(photos: list[bytes]) -> None:
    fed = trained_on(photos)
    fed[0, 0, 0, 0] = np.nan
    assert found(photos, fed)


def test_axes_in_another_order_are_named(photos: list[bytes]) -> None:
    (finding,) = found(photos, trained_on(photos).transpose(0, 1, 3, 2))
    assert finding.evidence["cause"] == "height_and_width_swapped"


def test_bytes_are_compared_as_they_are(photos: list[bytes]) -> None:
    of = replace(OF, inputs=(TensorSpec("pixels", DType.UINT8, ("batch", 24, 24, 3)),))
    pixels = trained_on(photos, mean=(0.0,) * 3, std=(1.0,) * 3, divide=1.0).transpose(0, 2, 3, 1).astype(np.uint8)
    assert held(STEPS[:3], of, {"image": column(*photos)}, {"pixels": pixels}) == ()
    (finding,) = held(STEPS[:3], of, {"image": column(*photos)}, {"pixels": pixels[..., ::-1]})
    assert finding.evidence["cause"] == "channel_order"
