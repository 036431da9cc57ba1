"""What every test shares, and how the suite is spread over two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says something about the machine, nothing about the code.
settings.register_profile("slipway", deadline=None)
settings.load_profile("slipway")

TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts services or containers stays in one process, in order; every other file, or
    folder of integration tests, is a group of its own.

    So that expensive fixtures are made once, and two containers are never measured at the same time.
    """
    for item in items:
        path = item.path.relative_to(TESTS)
        needs_services = path.parts[0] == "e2e" or item.get_closest_marker("docker") is not None
        apart = path.parent if path.parts[0] == "integration" and len(path.parts) > 2 else path
        item.add_marker(pytest.mark.xdist_group("services" if needs_services else apart.as_posix()))
