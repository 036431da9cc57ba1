"""What Slipway writes of an HTTPRoute, as a JSON schema: strict, so that a misspelt field is an error here and not a
route without weights in a cluster.

Written after the specification of `gateway.networking.k8s.io/v1` (gateway-api.sigs.k8s.io/reference/spec, HTTPRoute,
HTTPRouteRule, HTTPBackendRef, ParentReference), whose bounds it repeats; of its fields, those that are written.
"""

from __future__ import annotations

from typing import Any

from tasks.errors import PlatformError

#: The specification's largest weight (BackendRef.weight). Zero sends nothing there.
MOST_WEIGHT = 1_000_000

_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"  # RFC 1123
_NAME: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 253,
    "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
}
_NAMESPACE: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": _LABEL}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": most, "items": items}


SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "gateway.networking.k8s.io/v1"},
        kind={"const": "HTTPRoute"},
        metadata=_object(
            ("name",),
            name=_NAME,
            namespace=_NAMESPACE,
            labels={"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
            annotations={"type": "object", "additionalProperties": {"type": "string"}},
        ),
        spec=_object(
            ("parentRefs", "rules"),
            parentRefs=_list(_object(("name",), name=_NAME, namespace=_NAMESPACE), 32),
            rules=_list(
                _object(
                    ("backendRefs",),
                    backendRefs=_list(
                        _object(
                            ("name", "port", "weight"),
                            name=_NAME,
                            namespace=_NAMESPACE,
                            port={"type": "integer", "minimum": 1, "maximum": 65535},
                            weight={"type": "integer", "minimum": 0, "maximum": MOST_WEIGHT},
                        ),
                        16,
                    ),
                ),
                16,
            ),
        ),
    ),
}


def check_http_route(document: dict[str, Any]) -> None:
    """Hold a document against the schema.

    Raises:
        PlatformError: it does not hold; the message says where and why.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    wrong = best_match(Draft202012Validator(SCHEMA).iter_errors(document))
    if wrong is not None:
        where = ".".join(str(part) for part in wrong.absolute_path) or "the top"
        raise PlatformError(f"the HTTPRoute does not hold at {where}: {wrong.message}; nothing was written")
