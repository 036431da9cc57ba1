"""Train the digits CNN again, from another seed: the version that follows on the one of the folder above.

Writes its evaluation rows twice: as they are, and (`rescaled.npz`) as another scanner would give them, three times as
large.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]

import train as first  # noqa: E402  the folder above comes before this one
from training import Trained, train_once  # noqa: E402

SEED = 8


def train(folder: Path) -> Trained:
    trained = first.train(folder, seed=SEED)
    with np.load(folder / "eval.npz") as rows:
        np.savez(folder / "rescaled.npz", pixels=rows["pixels"] * np.float32(3), label=rows["label"])
    return trained


if __name__ == "__main__":
    train_once(HERE, libraries=("torch",), train=train, further=(HERE.parent / "train.py", HERE.parent / "model.py"))
