"""Documents against schemas that libraries bring along: strictly (an unknown field is an error), and offline.

Kubernetes' come from its own OpenAPI documents (kubernetes-validate), Compose's from its specification
(check-jsonschema). They hold form, not sense: that a label or a quantity is well-formed is for the cluster to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tasks.errors import PlatformError

#: The oldest version that knows every field that is written (`lifecycle.preStop.sleep`), and the newest with schemas.
KUBERNETES = ("1.30", "1.37")


def check_kubernetes(document: dict[str, Any]) -> None:
    """Hold one document against the strict schema of each version in `KUBERNETES`.

    Raises:
        PlatformError: it does not hold; the message says where and why.
    """
    from kubernetes_validate import SchemaNotFoundError, ValidationError, validate

    kind = document.get("kind", "a document without a kind")
    for version in KUBERNETES:
        try:
            validate(document, version, strict=True)
        except ValidationError as error:
            raise PlatformError(_not_valid(f"{kind} for Kubernetes {version}", error.path, error.message)) from error
        except SchemaNotFoundError as error:
            raise PlatformError(f"{kind}: Kubernetes {version} knows no {document.get('apiVersion')} of it") from error


def check_compose(document: dict[str, Any]) -> None:
    """Hold a compose file against the Compose specification.

    Raises:
        PlatformError: as `check_kubernetes`.
    """
    from check_jsonschema.builtin_schemas import get_builtin_schema
    from jsonschema.validators import validator_for

    schema = get_builtin_schema("vendor.compose-spec")
    errors = list(validator_for(schema)(schema).iter_errors(document))  # of the draft that the schema names
    if errors:
        # A wrong value leaves its whole mapping unevaluated: that error is about every key, and says nothing.
        first = min(errors, key=lambda error: error.validator == "unevaluatedProperties")
        raise PlatformError(_not_valid("compose.yaml", first.absolute_path, first.message))


def _not_valid(what: str, path: Iterable[str | int], message: str) -> str:
    where = ".".join(str(part) for part in path) or "the top"
    return f"{what} does not hold at {where}: {message}; nothing was written"
