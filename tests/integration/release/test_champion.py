"""MLflow after releases: aliases and the audit trail, in a real database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.contracts import Package
from tasks.errors import TrackingUnavailable
from tasks.lineage import record, remember_spec
from tasks.lineage.tracking import tracking
from tasks.manifest import in_order
from tasks.release.champion import MlflowChampion
from tasks.release.contracts import Deployed, Phase, Plan, Release
from tasks.release.controller.events import Opened, State
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.serving import Serving, promoted, rolled_back
from tasks.settings import Settings
from tasks.store import Store, open_store
from tests import samples
from tests.rehearsal import START

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@dataclass
class Home:
    """Three packages in a store, and MLflow."""

    settings: Settings
    store: Store
    packages: list[Package]

    @property
    def champion(self) -> MlflowChampion:
        return MlflowChampion(self.settings, self.store)

    def deployed(self, number: int) -> Deployed:
        package = self.packages[number]
        image = package.images[0]
        return Deployed(
            package=package.digest, image=image.digest, reference=image.reference, format=image.format, version=None
        )

    def release(self, number: int, phase: Phase) -> tuple[State, Path]:
        """A release of that package against the one before it, in its journal."""
        release = Release(
            id=f"digits-20261124T16000000{number}Z-01234567",
            model="digits",
            candidate=self.deployed(number),
            stable=self.deployed(number - 1) if number else None,
            plan=Plan(steps=(1, 100), bake_s=60, extend_s=600, min_requests=500, alpha=0.01, p99_ms=50),
            phase=phase,
            started_at=START,
            started_by="anna",
            changed_at=START,
        )
        ledger = Ledger(self.settings.home, "digits")
        state = ledger.begin(Opened(release=release, port=8080), release, "anna")
        return state, ledger.place(release.id)

    def aliases(self) -> dict[str, str]:
        with tracking(self.settings) as client:
            found = client.get_registered_model("digits").aliases
        return {key: str(version) for key, version in found.items() if key != "candidate"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path_factory.mktemp("home"))})
    store, made = open_store(settings.store_uri), []
    for number in range(3):
        spec = samples.spec(owner=f"team-{number}@example.com")
        package = samples.package(store, spec)
        store.put_result("package", package.digest, package.model_dump_json())
        remember_spec(in_order(spec), store)
        if number < 2:  # MLflow was away when the third one was made
            record(package, spec, store, settings)
        made.append(package)
    return Home(settings, store, made)


def serving(home: Home, number: int) -> Serving:
    """What serves after that many promotions."""
    now = None
    for each in range(number + 1):
        now = promoted(now, home.release(each, Phase.PROMOTING)[0], at=START)
    assert now is not None
    return now


def test_the_aliases_say_what_serves(home: Home) -> None:
    state, folder = home.release(1, Phase.PROMOTED)
    home.champion.follow(state, serving(home, 1), None, folder)
    assert home.aliases() == {"champion": "2", "previous": "1"}


def test_the_alias_canary_is_there_while_users_meet_it_and_gone_afterwards(home: Home) -> None:
    state, folder = home.release(1, Phase.CANARY)
    home.champion.announce(state.release)
    assert home.aliases()["canary"] == "2"
    home.champion.follow(home.release(1, Phase.ROLLED_BACK)[0], serving(home, 0), None, folder)
    assert home.aliases() == {"champion": "1"}


def test_another_release_that_is_underway_keeps_its_alias(home: Home) -> None:
    state, folder = home.release(0, Phase.PROMOTED)
    underway, _ = home.release(1, Phase.CANARY)
    home.champion.follow(state, serving(home, 0), underway.release, folder)
    assert home.aliases() == {"champion": "1", "canary": "2"}


def test_after_a_way_back_they_name_the_package_that_is_back(home: Home) -> None:
    state, folder = home.release(1, Phase.ROLLED_BACK)
    now = rolled_back(serving(home, 1), home.deployed(0), at=START, release=state.release.id)
    home.champion.follow(state, now, None, folder)
    assert home.aliases() == {"champion": "1"}


def test_a_release_s_run_holds_its_journal_and_its_trace(home: Home) -> None:
    state, folder = home.release(1, Phase.PROMOTED)
    (folder / "trace.jsonl").write_text("")
    run_id = home.champion.follow(state, serving(home, 1), None, folder)
    assert run_id is not None
    with tracking(home.settings) as client:
        files = {item.path for item in client.list_artifacts(run_id)}
        run = client.get_run(run_id)
    assert {"journal.jsonl", "trace.jsonl", "release.json"} <= files
    assert run.data.tags["slipway.package"] == home.packages[1].digest
    assert run.data.tags["slipway.phase"] == "promoted"
    assert run.data.tags["mlflow.parentRunId"]
    assert run.info.status == "FINISHED"


def test_telling_mlflow_twice_makes_no_second_run(home: Home) -> None:
    state, folder = home.release(1, Phase.PROMOTED)
    first = home.champion.follow(state, serving(home, 1), None, folder)
    assert home.champion.follow(state, serving(home, 1), None, folder) == first


def test_a_package_that_mlflow_never_had_is_recorded_by_its_release(home: Home) -> None:
    state, folder = home.release(2, Phase.PROMOTED)
    assert home.champion.follow(state, serving(home, 2), None, folder) is not None
    assert home.aliases()["champion"] == "3"


def test_where_mlflow_is_away_it_is_said(home: Home) -> None:
    away = Settings.from_environment(
        {"SLIPWAY_HOME": str(home.settings.home), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    )
    state, folder = home.release(1, Phase.PROMOTED)
    with pytest.raises(TrackingUnavailable):
        MlflowChampion(away, home.store).follow(state, serving(home, 1), None, folder)
