"""The trained model's bytes in: found, pinned, proven safe to open, stored by digest.

In: a `ModelSpec`. Out: an `Artifact` whose bytes, entrypoint code and evaluation data lie in the store, and from it, at
any later time and on any machine, the model itself (`load_source`) and its evaluation data (`load_evaluation`).

    stage.py        the stage: ingest, load_source, fingerprint
    fetch.py        a path, an fsspec URI or a folder → the store, streamed; refused when it changes while being read
    registry.py     models:/… and runs:/… → where MLflow keeps the bytes, and which run trained the model
    sources.py      SOURCES: loader name → module; which file in a folder is the model
    code.py         the entrypoint's module and its local imports
    archives.py     zip files that are not what they say
    pickles.py      what a pickle would call, for messages
    <loader>.py     per loader: inspect(path, spec) refuses what is unsafe or broken; load(path, artifact, work)
    torch_archive   what torch.export.load would run; skops_types: what skops may make
    signatures.py   the spec's inputs and outputs against the model's own
    evaluation.py   .npz and .parquet, checked against the raw signature
    probe.py        the model is asked once before it counts

docs/sources.md says which files are accepted, what is looked at in each, and why.
"""

from __future__ import annotations

from tasks.ingest.evaluation import load_evaluation
from tasks.ingest.preprocess import load_preprocessed, load_preprocessing
from tasks.ingest.sources import SOURCES, SourceModel
from tasks.ingest.stage import fingerprint, ingest, load_source

__all__ = [
    "SOURCES",
    "SourceModel",
    "fingerprint",
    "ingest",
    "load_evaluation",
    "load_preprocessed",
    "load_preprocessing",
    "load_source",
]
