"""`slipway score` without an engine: which image is run at all, and what becomes of what a container said."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from serving.score.rows import Unscorable
from tasks.errors import BadInput, PlatformError
from tasks.image.engine import Engine, ImageInfo
from tasks.scoring import _raise, score

SOMEBODY_ELSES = ImageInfo(f"sha256:{0:064}", ("alpine:latest",), 1, (), {})


class Images:
    """An engine with images alone: nothing can be run."""

    def __init__(self, *images: ImageInfo) -> None:
        self._images = {tag: image for image in images for tag in image.tags}

    def find_image(self, reference: str) -> ImageInfo | None:
        return self._images.get(reference)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("nowhere:1", "the engine has no image nowhere:1: `slipway status` lists what was packaged"),
        ("alpine:latest", "the image alpine:latest is no serving image that Slipway built"),
    ],
)
def test_only_a_serving_image_that_the_engine_has_is_run(tmp_path: Path, asked: str, expected: str) -> None:
    (tmp_path / "in.csv").touch()

    def connected() -> Engine:
        return Images(SOMEBODY_ELSES)  # type: ignore[return-value]

    with pytest.raises(BadInput, match=expected):
        score(asked, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), None, io.StringIO(), io.BytesIO(), connected)


def test_what_a_container_says_of_a_row_is_said_without_the_pipes_between() -> None:
    with pytest.raises(Unscorable, match=r"^row 4: input 'x' is out of range$"):
        _raise("m:1", 2, "a warning\nscore: standard input → standard output: row 4: input 'x' is out of range\n")


def test_what_docker_says_is_one_sentence_of_the_platform() -> None:
    said = "docker: Error response from daemon: no space left.\n\nRun 'docker run --help' for more information\n"
    with pytest.raises(PlatformError) as caught:
        _raise("m:1", 125, said)
    assert str(caught.value) == "the container of m:1 could not be run: Error response from daemon: no space left."
