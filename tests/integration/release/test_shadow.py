"""Shadow with real images in running containers: what no status and no latency would show."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.package import contract_digest
from serving.preprocess import raw_signature
from serving.tensor_record import pack
from tasks.contracts import Owner, Verdict
from tasks.image import Engine
from tasks.release.contracts import Endpoint, Phase, ShadowReport
from tasks.release.report import render
from tasks.release.shadow import shadow
from tasks.release.shadow.replay import Pace
from tasks.release.shadow.requests import logged
from tasks.spec import ShadowSpec
from tasks.store import LocalStore
from tests.integration.release.versions import CHANGES, RAW, ROWS, Made, Shipyard
from tests.integration.serving.process import running
from tests.integration.tiny import SIGNATURE, TinyModel
from tests.unit.release.report.releases import release

pytestmark = pytest.mark.docker

#: Nobody else is served by these containers.
FAST = Pace(connections=2, share=2.0)
NOWHERE = Endpoint(host="127.0.0.1", port=9)


@pytest.fixture(scope="module")
def shipyard(
    engine: Engine, tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shipyard]:
    """Images and containers are made when first asked for, and removed at the end."""
    folder = tmp_path_factory.mktemp("shadow")
    name = f"shadow-test-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        yield Shipyard(name, folder, LocalStore(folder / "store"), engine, tiny("onnx"), stack)
    for image in engine.images(f"org.opencontainers.image.title={name}"):
        for tag in image.tags:
            engine.remove_image(tag)


@pytest.fixture(scope="module")
def today(shipyard: Shipyard) -> Made:
    """The version in production."""
    return shipyard.make("today")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder for what is fetched."""
    return tmp_path


def replayed(
    shipyard: Shipyard, version: str, work: Path, *, served: str = "", wanted: ShadowSpec | None = None, **changes: Any
) -> ShadowReport:
    """`version` against today's; `served` is what really runs in its place."""
    return shadow(
        shipyard.make("today").deployed,
        shipyard.make(version).deployed,
        shipyard.start("today"),
        shipyard.start(served or version),
        wanted or ShadowSpec(),
        shipyard.store,
        work,
        **{"pace": FAST, **changes},
    )


def codes(report: ShadowReport) -> list[str]:
    return [finding.code for finding in report.findings]


def test_two_packages_of_one_model_pass(shipyard: Shipyard, work: Path) -> None:
    report = replayed(shipyard, "repackaged", work)
    assert (report.verdict, report.findings, report.kind) == (Verdict.PASSED, (), "equivalent")
    assert report.requests >= 1000
    assert (report.errors, report.agreement) == (0, 1.0)
    assert report.source == f"12 golden samples, {ROWS} evaluation rows"


def test_a_preprocessing_constant_that_changed_unsaid_is_caught_though_all_is_answered(
    shipyard: Shipyard, work: Path
) -> None:
    """What runs is not what the package says: status 200, as quick as ever, and another answer."""
    report = replayed(shipyard, "repackaged", work, served="offset")
    assert report.verdict is Verdict.FAILED
    assert report.errors == 0
    assert "SHADOW_ANSWER_DIFFERS" in codes(report)
    found = next(finding for finding in report.findings if finding.code == "SHADOW_ANSWER_DIFFERS")
    assert found.owner is Owner.MODEL
    assert {"request", "id", "row", "output", "old", "new", "input.x"} <= set(found.evidence)


def test_a_preprocessing_constant_that_changed_with_the_package_is_caught_by_the_metric(
    shipyard: Shipyard, work: Path
) -> None:
    report = replayed(shipyard, "offset", work)
    assert (report.verdict, report.kind, report.errors) == (Verdict.FAILED, "retrained", 0)
    assert codes(report) == ["SHADOW_METRIC_DROP"]


def test_a_retrained_model_that_is_as_good_passes(shipyard: Shipyard, work: Path) -> None:
    report = replayed(shipyard, "retrained", work, wanted=ShadowSpec(agreement=0.99))
    assert (report.verdict, report.findings, report.kind) == (Verdict.PASSED, (), "retrained")
    assert report.metrics == {"accuracy": (1.0, 1.0)}


def test_a_retrained_model_that_is_worse_is_caught_by_the_metric(shipyard: Shipyard, work: Path) -> None:
    report = replayed(shipyard, "confused", work)
    assert (report.verdict, codes(report)) == (Verdict.FAILED, ["SHADOW_METRIC_DROP"])
    old, new = report.metrics["accuracy"]
    assert (old, new) == (1.0, pytest.approx(accuracy("confused")))


def test_a_signature_that_clients_do_not_know_is_caught_before_anything_is_sent(
    shipyard: Shipyard, today: Made, work: Path
) -> None:
    wider = shipyard.make("wider").deployed
    report = shadow(today.deployed, wider, NOWHERE, NOWHERE, ShadowSpec(), shipyard.store, work)
    assert (report.verdict, report.requests) == (Verdict.FAILED, 0)
    assert codes(report) == ["SHADOW_SIGNATURE_CHANGED"]
    assert "'x'" in report.findings[0].message


def test_requests_that_the_new_version_refuses_are_named_with_their_input(shipyard: Shipyard, work: Path) -> None:
    report = replayed(shipyard, "narrow", work)
    assert report.verdict is Verdict.FAILED
    found = next(finding for finding in report.findings if finding.code == "SHADOW_REQUEST_REFUSED")
    assert found.evidence["input"] == "x"
    assert "SHADOW_SIGNATURE_NARROWED" in codes(report)


def test_fewer_requests_than_asked_for_are_no_pass(shipyard: Shipyard, work: Path) -> None:
    report = replayed(shipyard, "repackaged", work, pace=Pace(connections=1, share=0.01, within_s=1.0))
    assert (report.verdict, codes(report)) == (Verdict.INCONCLUSIVE, ["SHADOW_TOO_FEW_REQUESTS"])
    assert 0 < report.requests < 1000


def test_a_first_version_is_held_to_its_own_evidence(shipyard: Shipyard, today: Made, work: Path) -> None:
    new = shipyard.start("today")
    report = shadow(None, today.deployed, None, new, ShadowSpec(), shipyard.store, work, pace=FAST)
    assert (report.verdict, report.findings, report.kind) == (Verdict.PASSED, (), "first")


def test_a_server_that_is_not_there_blocks(shipyard: Shipyard, today: Made, work: Path) -> None:
    new, old = shipyard.make("repackaged").deployed, shipyard.start("today")
    report = shadow(today.deployed, new, old, NOWHERE, ShadowSpec(), shipyard.store, work, pace=FAST)
    assert report.verdict is Verdict.FAILED
    assert set(codes(report)) == {"SHADOW_ERRORS", "SHADOW_TOO_FEW_REQUESTS"}


def test_recorded_requests_are_replayed_and_what_was_redacted_is_said(
    shipyard: Shipyard, today: Made, work: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("log")
    lines = [recorded(today, f"user-{place}", RAW[place : place + 1]) for place in range(40)]
    hidden = msgspec.json.encode({**msgspec.json.decode(lines[0]), "inputs": {}, "omitted": ["x"]}) + b"\n"
    (log / "predictions-1.jsonl").write_bytes(b"".join([*lines, hidden]))
    report = replayed(shipyard, "repackaged", work, log=log)
    assert (report.verdict, codes(report)) == (Verdict.PASSED, ["SHADOW_LOG_REDACTED"])
    assert "40 recorded requests" in report.source


def test_a_prediction_log_that_is_not_there_is_no_pass(shipyard: Shipyard, work: Path) -> None:
    report = replayed(shipyard, "repackaged", work, log=work / "nowhere")
    assert (report.verdict, codes(report)) == (Verdict.INCONCLUSIVE, ["SHADOW_LOG_UNREADABLE"])


def test_what_a_server_recorded_is_taken_with_its_answers(
    tmp_path: Path, tiny: Callable[[str], TinyModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("onnx")
    package = model.package(tmp_path / "package")
    monkeypatch.setenv("SERVING_PREDICTION_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("SERVING_PREDICTION_LOG_SAMPLE", "1")
    with running(package, tmp_path / "server.log") as server:
        for place in range(5):
            assert server.infer(RAW[place : place + 2], id=f"user-{place}").status_code == 200
        assert server.infer(RAW[:1], id="shadow-3").status_code == 200
        server.process.terminate()  # what was recorded is written at its end
        server.process.wait(20)
    contract = model.contract(package)
    raw = raw_signature(SIGNATURE, contract.preprocess)
    found = logged(tmp_path / "log", "tiny", raw, contract_digest(package), most=1000)
    assert [request.name for request in found.requests] == [f"recorded request user-{place}" for place in range(5)]
    for place, request in enumerate(found.requests):
        assert request.recorded is not None
        np.testing.assert_array_equal(request.inputs["x"], RAW[place : place + 2])
        np.testing.assert_array_equal(request.recorded["y"], CHANGES["today"].answer(RAW[place : place + 2])["y"])


def test_what_shadow_found_is_on_the_page(shipyard: Shipyard, work: Path) -> None:
    report = replayed(shipyard, "confused", work)
    page = render(release(Phase.REFUSED, shadow=report, findings=report.findings))
    assert "was refused before any user met it" in page
    assert "SHADOW_METRIC_DROP" in page


def accuracy(version: str) -> float:
    """Of a version's own model, on the labelled rows."""
    truth, answers = (CHANGES[name].answer(RAW)["y"].argmax(1) for name in ("today", version))
    return float((truth == answers).mean())


def recorded(made: Made, identity: str, raw: Any) -> bytes:
    """A line of a prediction log, as the version's own servers write it."""
    answers = CHANGES["today"].answer(raw)
    line = {
        "id": identity,
        "time": 1.0,
        "model": made.package.name,
        "version": "1",
        "package": made.image.contract_digest,
        "inputs": {"x": pack(raw)},
        "outputs": {name: pack(array) for name, array in answers.items()},
    }
    return msgspec.json.encode(line) + b"\n"
