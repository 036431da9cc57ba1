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


#: Images that are built, started and asked, under names of their own; nothing of them is timed.
_IMAGES = ("tests/integration/image/", "tests/integration/test_base_image.py", "tests/e2e/test_raw_models.py")

#: Starts a run as a user does, and measures it.
_MEASURED = ("tests/integration/image/test_tune.py",)

#: The order in which groups are given out. The longest first, so that the two processes end together; images when the
#: other process has built the runtimes that both stand on; single files, which are short, at the end.
_ORDER = ("services", "export", "servers", "images")


def group_of(nodeid: str) -> str:
    """The group of tests that run in one process, in order; a file that shares nothing is one by itself."""
    file = nodeid.partition("::")[0]
    if file.startswith("tests/integration/export/"):
        return "export"  # its models are exported once
    if file.startswith(_SERVERS):
        return "servers"
    if file.startswith(_IMAGES) and file not in _MEASURED:
        return "images"
    if file in _ALONE:
        return file
    return "services" if file.startswith(("tests/e2e/", "tests/integration/")) else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {group: rank for rank, group in enumerate(_ORDER)}
    items.sort(key=lambda item: ranks.get(group_of(item.nodeid), len(_ORDER)))


class OneForServices(LoadScopeScheduling):
    """Whatever starts services or measures containers runs in one process, in order; the rest where there is room.

    So that expensive fixtures are made once, and no two containers are measured at the same time.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneForServices:
    """xdist's own groups do not reach pytest 9.2."""
    config.option.loadscopereorder = False  # the most tests are not the longest: `_ORDER` says which come first
    return OneForServices(config, log)
