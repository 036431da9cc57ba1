"""Where a server's time goes is read from the page that the real server writes."""

from __future__ import annotations

import numpy as np
import pytest

from serving.metrics import Metrics
from tasks.smoke.spent import read_spent
from tests.unit.serving.observed import outcome, served


def page(requests: int) -> str:
    metrics = Metrics(served(), "sha256:abc")
    for _ in range(requests):
        answered = {"logits": np.ones((2, 4), np.float32)}
        metrics.observe(outcome({"x": np.zeros((2, 4), np.float32)}, answered, decode_s=0.5, postprocess_s=0.25))
    return metrics.page("").body.decode()


def test_the_servers_own_page_is_read() -> None:
    found = read_spent(page(3))
    assert found is not None
    assert (found.requests, found.request_rows, found.batch_rows) == (3, 6, 6)
    assert (found.decode_s, found.postprocess_s) == (pytest.approx(1.5), pytest.approx(0.75))
    assert found.queue_s == pytest.approx(0.0003)
    assert found.preparation_s == pytest.approx(1.5 + 0.0006)
    assert found.model_s == found.inference_s == pytest.approx(0.009)


def test_only_what_came_after_an_earlier_reading_counts() -> None:
    earlier, later = read_spent(page(3)), read_spent(page(10))
    assert earlier is not None
    assert later is not None
    assert later.since(earlier).requests == 7
    assert later.since(earlier).decode_s == pytest.approx(3.5)


@pytest.mark.parametrize("text", ["", "not a page at all {", "slipway_inference_duration_seconds_count 3\n"])
def test_a_server_that_does_not_say_it_all_says_nothing(text: str) -> None:
    assert read_spent(text) is None
