"""Whole releases: real images, a real HAProxy, the real judge, and users who ask all the time."""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.attestation import attest
from tasks.contracts import Image, Package, Verdict, digest_of
from tasks.image import Engine
from tasks.lineage import packages as known_packages
from tasks.lineage import remember_spec
from tasks.manifest import in_order
from tasks.release.contracts import Endpoint, Phase, Release, ShadowReport
from tasks.release.controller.back import roll_back
from tasks.release.controller.controller import Controller
from tasks.release.controller.drive import drive
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.opening import Asked, find_candidate
from tasks.release.controller.real import outside
from tasks.release.removal import remove_all
from tasks.settings import Settings
from tasks.spec import GuardsSpec, ReleaseSpec
from tests import samples
from tests.integration.smoke.bench import Bench, around_run
from tests.integration.smoke.packages import Packages
from tests.integration.tiny import answer_raw, raw_samples

pytestmark = [pytest.mark.docker, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

RELEASE = ReleaseSpec(
    steps=(25, 100), bake="1s", extend="60s", min_requests=30, approval=False, guards=GuardsSpec(harm=0.9)
)
#: Answers as it should until it has been asked a while, and then one request in two not at all.
WORSE = around_run(
    """
    asked = [0]

    def change(inputs, run):
        asked[0] += 1
        if asked[0] > 80 and asked[0] % 2:
            raise RuntimeError("worse")
        return run(inputs)
    """
)


class Users:
    """They ask one request after the other, each with an id of its own, and remember which answers were wrong."""

    def __init__(self, model: str, port: int) -> None:
        self._model, self._port = model, port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(name,)) for name in range(3)]
        self.answers, self.wrong = 0, list[str]()

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, name: int) -> None:
        raw = raw_samples(1)
        entry = {"name": "x", "datatype": "UINT8", "shape": [1, raw.shape[1]], "data": raw.ravel().tolist()}
        body, number = json.dumps({"inputs": [entry]}), 0
        expected = answer_raw(raw)["y"].ravel()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._over.wait(0.003):
            number += 1
            headers = {"Content-Type": "application/json", "x-request-id": f"{name}-{number}"}
            try:
                connection.request("POST", f"/v2/models/{self._model}/infer", body, headers)
                answer = connection.getresponse()
                said = answer.read()
                found = {each["name"]: each["data"] for each in json.loads(said).get("outputs", ())}
                if answer.status != 200 or not np.array_equal(found["y"], expected):
                    self.wrong.append(f"{answer.status} {said[:200]!r}")
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.wrong.append(repr(error))
                connection.close()
            self.answers += 1


@dataclasses.dataclass
class Dock:
    """A model with its own home, whose packages are made by `package`."""

    bench: Bench
    settings: Settings
    controller: Controller
    spoiled: Callable[[str], Image]

    @property
    def model(self) -> str:
        return self.bench.spec.name

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.home, self.model)

    def package(self, owner: str, code: str = "") -> Package:
        """Another package of the same model: signed, and passed."""
        bench, store = self.bench, self.bench.store
        spec = bench.spec.model_copy(update={"owner": owner, "formats": ("onnx",), "release": RELEASE})
        exported = samples.export_report(store)
        export = samples.export(store).files.digest
        parity = bench.parity.model_copy(update={"export_digest": export})
        of = {"io.slipway.export": export, "io.slipway.parity": digest_of(parity)}
        image = self.spoiled(code) if code else bench.good
        image = image.model_copy(update={"labels": {**image.labels, **of}})
        smoke = [samples.smoke_report("onnx", kind, image_digest=image.digest) for kind in spec.smoke.instance_types]
        made = samples.package(
            store,
            spec,
            artifact=samples.artifact(store, name=self.model, signature=spec.signature),
            exports=[exported],
            parity=[parity],
            images=[image],
            smoke=smoke,
        )
        assert made.verdict is Verdict.PASSED, made.findings
        store.put_result("package", made.digest, made.model_dump_json())
        remember_spec(in_order(spec), store)
        attest(made, store, self.settings)
        return made

    def release(self, package: Package) -> Release:
        store = self.bench.store
        candidate = find_candidate(package.digest, list(known_packages(store)), store)
        release = self.controller.open(candidate, Asked(by="anna"), again=True)
        return drive(self.controller, release, lambda _: None)


def agreeing(release: Release, stable: Endpoint, canary: Endpoint, recorded: Path | None) -> ShadowReport:
    """Shadow has tests of its own; these are about what comes after it."""
    kind = "first" if release.stable is None else "equivalent"
    return ShadowReport(verdict=Verdict.PASSED, requests=1000, distinct=12, rows=1000, kind=kind)


@pytest.fixture(scope="module")
def dock(tmp_path_factory: pytest.TempPathFactory, packages: Packages, engine: Engine) -> Iterator[Dock]:
    bench = packages.tiny("onnx")
    home = tmp_path_factory.mktemp("dock")
    settings = Settings.from_environment({"SLIPWAY_HOME": str(home), "SLIPWAY_STORE": bench.store.uri})
    around = dataclasses.replace(outside(settings), shadow=agreeing)
    controller = Controller(settings.home, around, "anna")
    try:
        yield Dock(bench, settings, controller, lambda code: packages.spoiled(bench, code))
    finally:
        remove_all(bench.spec.name, engine, settings)


@pytest.fixture(scope="module")
def first(dock: Dock) -> Package:
    """The model's first package, which serves."""
    made = dock.package("first@example.com")
    assert dock.release(made).phase is Phase.PROMOTED
    return made


def test_a_good_package_takes_over_and_gives_back_and_no_user_sees_it(dock: Dock, first: Package) -> None:
    now = dock.ledger.serving()
    assert now is not None
    second = dock.package("second@example.com")
    with Users(dock.model, now.port) as users:
        release = dock.release(second)
        assert release.phase is Phase.PROMOTED, release.findings
        after = dock.ledger.serving()
        back = roll_back(dock.controller, dock.model, None, "to see it")
    assert users.wrong == []
    assert users.answers > 100
    assert after is not None
    assert (after.current.package, after.port) == (second.digest, now.port)
    restored = dock.ledger.serving()
    assert restored is not None
    assert restored.current.package == first.digest
    assert [item.code for item in back.findings] == ["RELEASE_ROLLBACK_ASKED"]


def test_a_package_that_turns_worse_is_rolled_back_by_itself_and_no_user_sees_an_error(
    dock: Dock, first: Package
) -> None:
    now = dock.ledger.serving()
    assert now is not None
    with Users(dock.model, now.port) as users:
        release = dock.release(dock.package("worse@example.com", WORSE))
    assert release.phase is Phase.ROLLED_BACK, (release.phase, release.findings)
    assert users.wrong == []
    after = dock.ledger.serving()
    assert after is not None
    assert after.current == now.current
    assert dock.controller.outside.router(dock.model).weight() == 0


def test_what_is_not_what_was_signed_is_refused(dock: Dock, first: Package) -> None:
    made = dock.package("unsigned@example.com")
    dock.bench.store.put_result("attestation", made.digest, "{}")
    release = dock.release(made)
    assert release.phase is Phase.REFUSED
    assert all(item.code.startswith("ATTESTATION_") for item in release.findings)
