"""Nothing that Slipway runs reports its use to anybody, neither in training nor in a serving image.

onnxruntime (from 1.31, on Linux as well), MLflow and Great Expectations send usage data unless told otherwise, and read
these variables when they are imported. So they are set when this package is, which everything of Slipway's imports
first; what the environment says already stays.
"""

from __future__ import annotations

import os

NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
}


def switch_off() -> None:
    """Put the variables into this process's environment, for it and for what it starts."""
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
