"""Which run trained a model: said by its source where that is in MLflow, else looked up by the model's bytes.

A training script that only writes a file says so by one tag on its run, and its model's lineage is whole:

    mlflow.set_tag("slipway.artifact_sha256", hashlib.sha256(Path("model.keras").read_bytes()).hexdigest())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.contracts import Artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: On a training run: the sha256 of the file it wrote, in hexadecimal.
ARTIFACT_TAG = "slipway.artifact_sha256"


def training_run_of(client: MlflowClient, artifact: Artifact) -> str | None:
    """The run that trained `artifact`. Where several wrote the same bytes, the first of them.

    A source in a folder is named by its root file, or, where the folder itself is the model, by the tree's digest.
    """
    if artifact.source_run is not None:
        return artifact.source_run
    root = next((file.digest for file in artifact.files.files if file.path == artifact.root), artifact.files.digest)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(
        experiments,
        f"tags.`{ARTIFACT_TAG}` = '{root.removeprefix('sha256:')}'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return str(found[0].info.run_id) if found else None
