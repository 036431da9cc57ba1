"""What a person fills in to start a run: Airflow renders these as a form, and checks them before anything runs.

Called while a DAG file is parsed, so nothing heavy is imported here.
"""

from __future__ import annotations

from airflow.sdk import Param

from tasks.airflow_glue.project import default_patterns, shown, spec_files
from tasks.errors import BadInput
from tasks.export.formats import ALL, FORMATS
from tasks.smoke.catalogue import load_catalogue


def package_params() -> dict[str, Param]:
    """The parameters of `package_model`."""
    return {
        "spec": Param(
            type="string",
            minLength=1,
            title="Spec",
            description="The model.yaml to package: a path, relative to the repository or absolute.",
            examples=[shown(path) for path in spec_files(default_patterns())],
        ),
        "formats": Param(
            [],
            type=["array", "null"],
            items={"type": "string", "minLength": 1},
            uniqueItems=True,
            title="Formats",
            description="Leave empty for those of the spec; `all` alone is every one that the framework can give.",
            examples=[ALL, *FORMATS],
        ),
        "instance_types": Param(
            [],
            type=["array", "null"],
            items={"type": "string", "minLength": 1},
            uniqueItems=True,
            title="Instance types",
            description="What the images must be proven on. Leave empty for those of the spec.",
            examples=_instance_types(),
        ),
        "fresh": Param(
            False,
            type="boolean",
            title="Fresh",
            description="Run every stage again, also those whose inputs did not change.",
        ),
    }


def nightly_params() -> dict[str, Param]:
    """The parameters of `nightly_packaging`."""
    return {
        "specs": Param(
            default_patterns(),
            type="array",
            minItems=1,
            items={"type": "string", "minLength": 1},
            title="Specs",
            description="Folders and globs that name the model.yaml files to look at, one per line. "
            "The default comes from SLIPWAY_SPECS.",
        ),
    }


def _instance_types() -> list[str]:
    try:
        return list(load_catalogue())
    except BadInput:
        # A user's own catalogue that does not hold must not take the whole DAG out of Airflow:
        # the run's first task says what is wrong with it.
        return []
