"""What every test shares, and how the suite is spread over two processes."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tasks.smoke.trial import CAPACITY_VARIABLE
from tasks.workspace import use_own_temporary_folder

# How long an example takes says something about the machine, nothing about the code.
settings.register_profile("slipway", deadline=None)
settings.load_profile("slipway")


def pytest_configure(config: pytest.Config) -> None:
    """The suite leaves nothing in the temporary folder; its second processes inherit the first one's."""
    if not hasattr(config, "workerinput"):
        use_own_temporary_folder()
    # Half a minute for each image and type, in tests that are about something else; those that are about it ask for it.
    os.environ.setdefault(CAPACITY_VARIABLE, "off")


#: Integration tests that start neither containers nor Airflow: they run where there is room.
_ALONE = tuple(
    f"tests/integration/test_{name}.py" for name in ("cli", "examples", "ingest_mlflow", "lineage", "verify")
)


#: Servers as processes of this machine: in one process, because what they serve is exported once.
_SERVERS = ("tests/integration/serving/", "tests/integration/preprocess/", "tests/integration/test_bundle_types.py")


class OneForServices(LoadScopeScheduling):
    """Whatever starts services or containers runs in one process, in order; every other file where there is room.

    So that expensive fixtures are made once, and no two containers are measured at the same time.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith("tests/integration/export/"):
            return "export"  # its models are exported once
        if file.startswith(_SERVERS):
            return "servers"
        if file in _ALONE:
            return file
        return "services" if file.startswith(("tests/e2e/", "tests/integration/")) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneForServices:
    """xdist's own groups do not reach pytest 9.2."""
    return OneForServices(config, log)
