"""Which types of a skops file may be made, beyond those that skops trusts itself.

skops's own list leaves out what many of scikit-learn's estimators are made of: without it, no tree, forest, boosting,
neighbour search or imputer could be packaged. Each type here was read: it holds numbers, or is a function of numbers,
and making it calls nothing else. Trees are followed by compiled code that checks no index, so `refuse_broken_trees`
does it once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SourceError

_PARTS = re.compile(
    r"numpy\.(dtype|mean|median)"
    r"|scipy\.sparse\._(csr|csc|coo)\.(csr|csc|coo)_(matrix|array)"
    r"|scipy\.interpolate\._bsplines\.BSpline"
    r"|sklearn\.tree\._tree\.Tree"
    r"|sklearn\.ensemble\._hist_gradient_boosting\.predictor\.TreePredictor"
    r"|sklearn\.neighbors\.(_kd_tree\.KDTree|_ball_tree\.BallTree)(32|64)?"
    r"|sklearn\.metrics\._dist_metrics\.(Euclidean|SEuclidean|Manhattan|Chebyshev|Minkowski|Hamming|Haversine)"
    r"Distance(32|64)?"
    r"|sklearn\._loss\.(loss|link)\.\w+"
    r"|sklearn\.calibration\._(CalibratedClassifier|SigmoidCalibration|TemperatureScaling)"
    r"|sklearn\.cluster\._bisect_k_means\._BisectingTree|sklearn\.cluster\._kmeans\._kmeans_single_(lloyd|elkan)"
    r"|sklearn\.feature_selection\._univariate_selection\.(f_classif|f_regression|f_oneway|chi2|r_regression)"
    r"|sklearn\.feature_selection\._mutual_info\.mutual_info_(classif|regression)"
    r"|sklearn\.gaussian_process\._gpc\._BinaryGaussianProcessClassifierLaplace"
    r"|sklearn\.gaussian_process\.kernels\.[A-Z]\w+"
    r"|sklearn\.neural_network\._stochastic_optimizers\.(Adam|SGD)Optimizer"
)


def is_trusted(name: str) -> bool:
    """Whether a type that skops does not know may be made."""
    return _PARTS.fullmatch(name) is not None


def refuse_broken_trees(estimator: Any) -> None:
    """Every index in the estimator's trees stays inside its tree, and every way down ends.

    Raises:
        SourceError: one does not.
    """
    features = getattr(estimator, "n_features_in_", None)
    for part in _parts(estimator, set()):
        kind = type(part).__name__
        if kind == "Tree":
            nodes = part.__getstate__()["nodes"]
            inner = nodes["left_child"] != -1
            sound = _descends(nodes["left_child"], nodes["right_child"], inner, len(nodes))
            sound = sound and _below(nodes["feature"][inner], part.n_features)
        elif kind == "TreePredictor":
            nodes = part.nodes
            inner = nodes["is_leaf"] == 0
            sound = _descends(nodes["left"], nodes["right"], inner, len(nodes))
            sound = sound and (features is None or _below(nodes["feature_idx"][inner], features))
            sound = sound and _below(nodes["bitset_idx"][nodes["is_categorical"] == 1], len(part.raw_left_cat_bitsets))
        elif kind.startswith(("KDTree", "BallTree")):
            data, order, nodes, *_ = part.__getstate__()
            sound = _below(order, len(data)) and _below(nodes["idx_end"], len(data) + 1)
            sound = sound and bool((nodes["idx_start"] >= 0).all() and (nodes["idx_start"] <= nodes["idx_end"]).all())
        else:
            continue
        if not sound:
            raise SourceError(f"a {kind} in the model points outside itself, so the file is damaged; write it again")


def _descends(left: NDArray[Any], right: NDArray[Any], inner: NDArray[np.bool_], count: int) -> bool:
    """Children come after their parents, as scikit-learn numbers them: so there are no circles."""
    own = np.arange(count)[inner]
    children = [np.asarray(side[inner], dtype=np.int64) for side in (left, right)]
    return all(bool((side > own).all()) and _below(side, count) for side in children)


def _below(values: NDArray[Any], limit: int) -> bool:
    numbers = np.asarray(values, dtype=np.int64)
    return bool((numbers >= 0).all() and (numbers < limit).all())


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """The value and everything in it, each once."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | None):
        return
    seen.add(id(value))
    yield value
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple | set) or (isinstance(value, np.ndarray) and value.dtype == object):
        inner = list(value)
    elif hasattr(value, "__dict__"):
        inner = vars(value).values()
    for item in inner:
        yield from _parts(item, seen)
