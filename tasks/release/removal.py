"""Everything that keeps running for a model, taken away: its router first, then its arms."""

from __future__ import annotations

from tasks.image.engine import Engine
from tasks.release.arms import Arms
from tasks.release.arms.labels import HOME_LABEL, MODEL_LABEL
from tasks.release.router.haproxy import HaproxyRouter
from tasks.settings import Settings


def remove_everything(engine: Engine, settings: Settings) -> tuple[str, ...]:
    """The same for every model that this installation serves; their names.

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    found = engine.containers(MODEL_LABEL, f"{HOME_LABEL}={settings.home}")
    models = tuple(sorted({info.labels[MODEL_LABEL] for info in found}))
    for model in models:
        remove_all(model, engine, settings)
    return models


def remove_all(model: str, engine: Engine, settings: Settings) -> None:
    """Nobody answers for the model afterwards. Packages, images and the journal stay.

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    HaproxyRouter(model, engine, settings).remove()
    Arms(model, engine, settings).remove_all()
