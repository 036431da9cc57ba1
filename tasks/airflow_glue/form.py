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


def release_params() -> dict[str, Param]:
    """The parameters of `release_model`. None is demanded: a package that starts its own release brings them along."""
    return {
        "model": Param(
            None,
            type=["string", "null"],
            minLength=1,
            title="Model",
            description="The model whose package is to serve: its name in model.yaml.",
        ),
        "version": Param(
            None,
            type=["string", "null"],
            minLength=1,
            title="Version",
            description="Of the registered model in MLflow, or the first digits of a package's digest. "
            "Leave empty for the newest package.",
        ),
        "port": Param(
            None,
            type=["integer", "null"],
            minimum=1,
            maximum=65535,
            title="Port",
            description="Where users ask, on loopback, for a model's first release. It stays that of later ones.",
        ),
        "recorded": Param(
            None,
            type=["string", "null"],
            minLength=1,
            title="Recorded requests",
            description="A folder of prediction logs whose requests shadow replays: a path, relative to the repository "
            "or absolute. Leave empty for the golden samples and the evaluation data.",
        ),
        "approval_hours": Param(
            24,
            type="number",
            exclusiveMinimum=0,
            title="Time to approve",
            description="Hours, after which nobody's answer ends the release. Only where the spec asks for approval.",
        ),
    }


def approval_params() -> dict[str, Param]:
    """What a person fills in who approves or rejects a release."""
    return {
        "reason": Param("", type="string", title="Reason", description="Kept with the decision in the audit trail."),
    }


def rollback_params() -> dict[str, Param]:
    """The parameters of `rollback_model`."""
    return {
        "model": Param(type="string", minLength=1, title="Model", description="The model that is to go back."),
        "reason": Param(
            "", type="string", title="Reason", description="Kept in the audit trail: what was seen, and by whom."
        ),
    }


def _instance_types() -> list[str]:
    try:
        return list(load_catalogue())
    except BadInput:
        # A user's own catalogue that does not hold must not take the whole DAG out of Airflow:
        # the run's first task says what is wrong with it.
        return []
