"""Where Slipway keeps its state and finds its services: environment variables, each with an embedded default.

SLIPWAY_HOME          .slipway/                   root of everything below
SLIPWAY_STORE         <home>/store                a path or any fsspec URI
MLFLOW_TRACKING_URI   sqlite:///<home>/mlflow/mlflow.db
SLIPWAY_REGISTRY      none                        where images are pushed
SLIPWAY_SIGNING_KEY   <home>/keys/signing.pem     signs the evidence; made on first use unless it is named
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Resolved settings. Paths are absolute."""

    home: Path
    store_uri: str
    tracking_uri: str
    registry: str | None
    signing_key: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the environment (`os.environ` unless given); an empty variable counts as not set."""
        env = os.environ if environment is None else environment
        home = Path(env.get("SLIPWAY_HOME") or ".slipway").absolute()
        key = env.get("SLIPWAY_SIGNING_KEY")
        return cls(
            home=home,
            store_uri=env.get("SLIPWAY_STORE") or str(home / "store"),
            tracking_uri=env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}",
            registry=env.get("SLIPWAY_REGISTRY") or None,
            signing_key=Path(key).absolute() if key else None,
        )

    @property
    def work(self) -> Path:
        """Scratch space on the same disk as the embedded store; what is left there by a killed process is swept."""
        return self.home / "work"
