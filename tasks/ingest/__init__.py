"""The trained model's bytes in: found, pinned, proven safe to open, stored by digest.

In: a `ModelSpec`. Out: an `Artifact` whose bytes, entrypoint code and evaluation data lie in the store, and from it, at
any later time and on any machine, the model itself (`load_source`) and its evaluation data (`load_evaluation`).

    fetch.py        a path, an fsspec URI or a folder → local files, streamed, refused when they change while being read
    registry.py     models:/… and runs:/… → what MLflow holds under them, and which run trained it
    sources.py      SOURCES: loader name → module; which loader reads which file
    code.py         the entrypoint's module and its local imports
    pickles.py      what a pickle would call, without opening it
    archives.py     zip files that are not what they say
    <loader>.py     per loader: inspect(path, spec) refuses what is unsafe or broken; load(path, artifact, work)
    evaluation.py   .npz and .parquet, checked against the raw signature
"""

from __future__ import annotations

from tasks.ingest.evaluation import load_evaluation
from tasks.ingest.sources import SOURCES, SourceModel
from tasks.ingest.stage import fingerprint, ingest, load_source

__all__ = ["SOURCES", "SourceModel", "fingerprint", "ingest", "load_evaluation", "load_source"]
