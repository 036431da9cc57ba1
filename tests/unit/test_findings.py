from __future__ import annotations

from tasks.findings import placed
from tests import samples


def test_the_same_words_about_several_places_come_once_with_all_places() -> None:
    found = [
        samples.finding(evidence={"format": name, "instance_type": kind})
        for name in ("onnx", "savedmodel")
        for kind in ("c6i.large", "c6i.large", "c4.large")
    ]
    (one,) = placed(found)
    assert one.places == (
        "onnx on c6i.large",
        "onnx on c4.large",
        "savedmodel on c6i.large",
        "savedmodel on c4.large",
    )


def test_other_figures_are_other_words() -> None:
    found = [samples.finding(message=f"ready after {seconds} s") for seconds in (4, 5)]
    assert [item.finding for item in placed(found)] == found


def test_what_is_about_the_whole_has_no_place() -> None:
    assert placed([samples.finding()])[0].places == ()
