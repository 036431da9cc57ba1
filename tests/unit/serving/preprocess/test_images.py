"""Encoded images: what they become, held against Pillow and NumPy by hand, and which ones are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from serving.contract import (
    Channels,
    DimRange,
    DType,
    EncodedImages,
    Interpolation,
    Layout,
    PreprocessStep,
    Signature,
    TensorSpec,
)
from serving.preprocess import apply, extras, problems, raw_signature
from serving.preprocess.images import MAX_BYTES
from serving.tensors import BadRequest
from tests.unit.serving.preprocess.conftest import column, encoded, signature

Pixels = NDArray[np.uint8]


def decode(**arguments: Any) -> PreprocessStep:
    return PreprocessStep("decode_image", "x", **arguments)


def resize(*size: int, **arguments: Any) -> PreprocessStep:
    return PreprocessStep("resize", "x", size=size, **arguments)


def crop(*size: int) -> PreprocessStep:
    return PreprocessStep("crop", "x", size=size)


CHW = PreprocessStep("layout", "x", to=Layout.CHW)
SCALE = PreprocessStep("scale", "x", by=1 / 255)
ANY = signature(
    TensorSpec("x", DType.UINT8, ("batch", "h", "w", 3)), h=DimRange(1, 100), w=DimRange(1, 100)
)  # takes images of every size


def made(steps: tuple[PreprocessStep, ...], *images: bytes, of: Signature | None = None) -> NDArray[Any]:
    return apply(steps, {"x": column(*images)}, of or signature())["x"]


def test_clients_send_one_file_per_row_under_the_name_that_the_step_says() -> None:
    raw = raw_signature(signature(), (decode(source="photo", max_bytes=1000), resize(4, 6), CHW))
    assert raw.inputs == (EncodedImages("photo", DType.STRING, ("batch",), max_bytes=1000),)
    assert raw_signature(signature(), (decode(), resize(4, 6), CHW)).inputs[0] == EncodedImages(
        "x", DType.STRING, ("batch",), max_bytes=MAX_BYTES
    )


def test_a_png_becomes_its_pixels(photo: Pixels) -> None:
    assert (made((decode(),), encoded(photo), of=ANY)[0] == photo).all()


def test_a_jpeg_becomes_what_pillow_reads(photo: Pixels) -> None:
    content = encoded(photo, "JPEG", quality=90)
    assert (made((decode(),), content, of=ANY)[0] == np.asarray(Image.open(io.BytesIO(content)))).all()


def test_bgr_is_rgb_backwards(photo: Pixels) -> None:
    backwards = made((decode(channels=Channels.BGR),), encoded(photo), of=ANY)[0]
    assert (backwards == photo[..., ::-1]).all()


@pytest.mark.parametrize("shape", [("batch", 20, 30), ("batch", 20, 30, 1), ("batch", 1, 20, 30)])
def test_one_channel_is_luminance_with_or_without_an_axis(photo: Pixels, shape: tuple[int | str, ...]) -> None:
    layout = (CHW,) if shape[1] == 1 else ()
    grey = made(
        (decode(channels=Channels.L), *layout), encoded(photo), of=signature(TensorSpec("x", DType.FLOAT32, shape))
    )
    assert grey.shape == (1, *shape[1:])
    assert grey.dtype == np.float32
    assert (grey.ravel() == np.asarray(Image.fromarray(photo).convert("L")).ravel()).all()


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "1", "CMYK"])
def test_images_of_other_modes_become_colours(photo: Pixels, mode: str) -> None:
    image, content = Image.fromarray(photo).convert(mode), io.BytesIO()
    image.save(content, "JPEG" if mode == "CMYK" else "PNG")
    expected = np.asarray(Image.open(content).convert("RGB"))
    assert (made((decode(),), content.getvalue(), of=ANY)[0] == expected).all()


@pytest.mark.parametrize("interpolation", Interpolation)
def test_resize_is_pillows(photo: Pixels, interpolation: Interpolation) -> None:
    answer = made((decode(), resize(4, 6, interpolation=interpolation), CHW), encoded(photo))
    expected = Image.fromarray(photo).resize((6, 4), Image.Resampling[interpolation.name])
    assert (answer[0] == np.moveaxis(np.asarray(expected), -1, 0)).all()


def test_without_antialias_each_pixel_is_taken_at_its_middle(photo: Pixels) -> None:
    """As OpenCV's INTER_LINEAR and TensorFlow's resize do: bilinear between the four nearest, half-pixel centres."""
    answer = made((decode(), resize(4, 6, antialias=False), CHW), encoded(photo))[0]
    rows, columns = (np.arange(4) + 0.5) * 5 - 0.5, (np.arange(6) + 0.5) * 5 - 0.5
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[:, None, None], (columns - left)[None, :, None]
    corners = [photo[np.ix_(top + dy, left + dx)].astype(float) for dy in (0, 1) for dx in (0, 1)]
    expected = (
        corners[0] * (1 - down) * (1 - right)
        + corners[1] * (1 - down) * right
        + corners[2] * down * (1 - right)
        + corners[3] * down * right
    )
    assert np.abs(np.moveaxis(answer, 0, -1) - expected).max() <= 0.5 + 1e-3


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12))
def test_one_size_is_that_of_the_shorter_side_and_the_other_keeps_the_ratio(height: int, width: int, side: int) -> None:
    answer = made((decode(), resize(side)), encoded(np.zeros((height, width, 3), np.uint8)), of=_wide())
    assert min(answer.shape[1:3]) == side
    assert answer.shape[1:3] == (
        (side, int(side * width / height)) if width > height else (int(side * height / width), side)
    )


def _wide() -> Signature:
    return signature(TensorSpec("x", DType.UINT8, ("batch", "h", "w", 3)), h=DimRange(1, 999), w=DimRange(1, 999))


def test_crop_is_the_middle_rounded_as_torchvision_does(photo: Pixels) -> None:
    of = signature(TensorSpec("x", DType.UINT8, ("batch", 7, 9, 3)))
    answer = made((decode(), crop(7, 9)), encoded(photo), of=of)[0]
    assert (answer == photo[round(13 / 2) : round(13 / 2) + 7, round(21 / 2) : round(21 / 2) + 9]).all()


def test_the_whole_recipe_is_the_one_written_with_pillow_and_numpy(photo: Pixels) -> None:
    steps = (
        decode(),
        resize(5),
        crop(4, 6),
        CHW,
        SCALE,
        PreprocessStep("standardize", "x", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), axis=1),
    )
    jpeg = encoded(photo[:, ::-1], "JPEG", quality=95)
    answer = made(steps, encoded(photo), jpeg)
    for row, content in enumerate((encoded(photo), jpeg)):
        image = Image.open(io.BytesIO(content)).convert("RGB").resize((7, 5), Image.Resampling.BILINEAR)
        pixels = np.asarray(image.crop((0, 0, 6, 4))).astype(np.float64) / 255
        expected = np.moveaxis((pixels - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4], -1, 0)
        np.testing.assert_allclose(answer[row], expected, rtol=1e-5, atol=1e-6)


def test_a_batch_is_its_images_one_by_one(photo: Pixels) -> None:
    steps, images = (decode(), resize(4, 6), CHW, SCALE), [encoded(photo), encoded(photo[:9]), encoded(photo[:, :5])]
    alone = [made(steps, image) for image in images]
    assert np.array_equal(made(steps, *images), np.concatenate(alone))


# --- what is refused ----------------------------------------------------------------------------------------------


def refused(steps: tuple[PreprocessStep, ...], *images: bytes | str, of: Signature | None = None) -> str:
    with pytest.raises(BadRequest) as caught:
        apply(steps, {"x": column(*images)}, of or signature())
    return str(caught.value)


RECIPE = (decode(), resize(4, 6), CHW)


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"not an image at all" * 100],
    ids=["nothing", "GIF", "PNG's head", "JPEG's head", "text"],
)
def test_what_is_no_image_is_refused_with_its_row(photo: Pixels, content: bytes) -> None:
    message = refused(RECIPE, encoded(photo), content)
    assert message.startswith(f"input 'x': row 1: the {len(content)} bytes are ")


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_an_image_that_ends_early_is_refused(photo: Pixels, format: str) -> None:
    content = encoded(photo, format)
    assert "row 0" in refused(RECIPE, content[: len(content) // 2])


@given(st.data())
def test_whatever_bytes_come_an_image_or_a_bad_request_goes(data: st.DataObject) -> None:
    """A changed byte may give another image; it never gives another error."""
    content = bytearray(
        encoded(np.arange(144, dtype=np.uint8).reshape(6, 8, 3), data.draw(st.sampled_from(["PNG", "JPEG"])))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert made(RECIPE, bytes(content)).shape == (1, 3, 4, 6)
    except BadRequest as error:
        assert "row 0" in str(error)  # noqa: PT017  either is right


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    """60,000 × 60,000 pixels, 10.8 GB: the head alone says so."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + _chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + _chunk(b"IEND", b"")
    )
    message = refused(RECIPE, bomb)
    assert message.startswith("input 'x': row 0: an image has at most 33554432 pixels; Image size (3600000000 pixels)")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_the_declared_limits_are_kept(photo: Pixels) -> None:
    content = encoded(photo)
    steps = (resize(4, 6), CHW)
    assert "at most 599 pixels, found 30 × 20" in refused((decode(max_pixels=599), *steps), content)
    assert made((decode(max_pixels=600, max_bytes=len(content)), *steps), content).shape == (1, 3, 4, 6)
    assert f"at most 10 bytes, found {len(content)}" in refused((decode(max_bytes=10), *steps), content)


def test_sixteen_bits_are_refused_instead_of_cut_off() -> None:
    content = encoded(np.full((4, 6), 40_000, np.uint16))  # type: ignore[arg-type]
    assert "images of 8 bits a channel are taken, found one of mode I;16" in refused(RECIPE, content)


def test_an_image_of_another_size_is_refused_where_no_resize_is_declared(photo: Pixels) -> None:
    message = refused((decode(), CHW), encoded(photo))
    assert (
        message
        == "input 'x': row 0: found 30 × 20 pixels, expected 6 × 4; where images differ in size, declare a resize"
    )


def test_images_of_one_request_have_one_size_where_the_model_takes_several(photo: Pixels) -> None:
    message = refused((decode(),), encoded(photo), encoded(photo[:5]), of=ANY)
    assert message == "input 'x': row 1: found 30 × 5 pixels, expected 30 × 20 like the first of the request"
    tall = np.zeros((101, 5, 3), np.uint8)
    assert "h of 1 to 100" in refused((decode(),), encoded(tall), of=ANY)


def test_an_image_that_is_too_small_to_be_cropped_is_refused(photo: Pixels) -> None:
    assert "less than the 6 × 4 to be cropped" in refused((decode(), crop(4, 6), CHW), encoded(photo[:3]))


def test_text_where_an_image_is_expected_is_refused() -> None:
    assert "expected the bytes of an image, found text" in refused(RECIPE, "hello")


# --- what is refused when it is declared --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((resize(4, 6),), "resize needs a step decode_image before it"),
        ((SCALE, decode(), resize(4, 6), CHW), "a decode_image must be the first step of its input 'x'"),
        ((decode(), CHW, resize(4, 6)), "resize of 'x' comes too late: first resize and crop, then layout"),
        ((decode(), resize(4, 6), SCALE, CHW), "layout of 'x' comes too late"),
        ((decode(), resize(6, 4), CHW), "gives images 6 high, 'x' is 4 high"),
        ((decode(), resize(3), crop(4, 6), CHW), "is larger than what resize gives"),
        ((decode(), resize(4, 6)), "rgb has 3 channels, 'x' of shape [batch, 3, 4, 6] has 6"),
        ((decode(channels=Channels.L), resize(4, 6), CHW), "l has 1 channels"),
        ((decode(), resize(4, 6, 8), CHW), "resize needs size: [height, width], or [256] for the shorter side"),
        ((decode(), resize(0, 6), CHW), "a size is at least 1, found 0"),
        ((decode(), resize(4, 6, antialias=False, interpolation=Interpolation.BOX), CHW), "box averages by its nature"),
        ((decode(max_pixels=0), resize(4, 6), CHW), "must be at least 1, found 0"),
        ((decode(), resize(4, 6), PreprocessStep("layout", "x")), "layout needs to: one of chw, hwc"),
        ((decode(by=2.0), resize(4, 6), CHW), "takes channels and max_bytes and max_pixels and source, not by"),
    ],
)  # fmt: skip
def test_steps_that_make_no_sense_are_named(steps: tuple[PreprocessStep, ...], said: str) -> None:
    assert any(said in problem.message for problem in problems(signature(), steps))


def test_an_image_that_must_be_told_its_layout_is_told_how_to() -> None:
    (problem,) = problems(signature(), (decode(), resize(4, 6)))
    assert problem.message.endswith("or say {op: layout, input: x, to: chw}")


@pytest.mark.parametrize("dtype", [DType.STRING, DType.BOOL, DType.INT8])
def test_an_image_is_no_tensor_of(dtype: DType) -> None:
    assert problems(signature(TensorSpec("x", dtype, ("batch", 3, 4, 6))), (decode(), resize(4, 6), CHW))


def test_images_need_pillow_and_say_so() -> None:
    assert extras((decode(), SCALE)) == ("image",)
    assert extras((SCALE,)) == ()
