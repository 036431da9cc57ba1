"""Train a scikit-learn classifier on the Wisconsin breast cancer data (569 real tumours, 30 measurements each)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from training import Trained, in_order_seen, train_once, without_times  # noqa: E402

SEED, STRENGTH = 7, 0.5


def train(folder: Path) -> Trained:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import skops.io
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_breast_cancer()
    features, labels = data.data.astype(np.float32), data.target.astype(np.int64)
    # 285 rows: enough for parity to show that no more than one point of accuracy is lost (268 where no row changes).
    split = train_test_split(features, labels, test_size=0.5, random_state=SEED, stratify=labels)
    train_features, eval_features, train_labels, eval_labels = split

    pipeline = Pipeline([("scale", StandardScaler()), ("classify", LogisticRegression(C=STRENGTH, max_iter=1000))])
    pipeline.fit(train_features, train_labels)

    skops.io.dump(pipeline, folder / "breast-cancer.skops")
    without_times(folder / "breast-cancer.skops", _renumbered())
    rows = pa.FixedSizeListArray.from_arrays(pa.array(eval_features.ravel()), eval_features.shape[1])
    pq.write_table(pa.table({"features": rows, "diagnosis": pa.array(eval_labels)}), folder / "eval.parquet")
    return Trained(
        artifact="breast-cancer.skops",
        evaluation="eval.parquet",
        data="load_breast_cancer",
        train_rows=len(train_labels),
        eval_rows=len(eval_labels),
        params={"seed": SEED, "C": STRENGTH},
        metrics={"accuracy": float(pipeline.score(eval_features, eval_labels))},
    )


def _renumbered() -> Callable[[str, bytes], tuple[str, bytes]]:
    """skops names objects by their address in memory; the same training should give the same bytes."""
    number = in_order_seen()

    def renumber(name: str, content: bytes) -> tuple[str, bytes]:
        name = re.sub(rb"^()(\d+)(\.npy)$", number, name.encode()).decode()
        if name == "schema.json":
            content = re.sub(rb'("__id__": )(\d+)()', number, content)
            content = re.sub(rb'("file": ")(\d+)(\.npy")', number, content)
        return name, content

    return renumber


if __name__ == "__main__":
    train_once(HERE, libraries=("skops",), train=train)
