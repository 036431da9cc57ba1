"""A notifier of our own: the news as JSON, posted to a URL that an Airflow connection holds.

The connection is of type `http`: host (or a whole URL as host), port, schema (`https` unless it says otherwise) and, in
its extra, `path`; its password, where there is one, is sent as a bearer token. So neither the URL, which is a secret
with most services, nor the token is in a DAG, a log or the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseNotifier, Connection

from tasks.airflow_glue.release.news import News
from tasks.errors import PlatformError

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

#: Nobody waits longer for a notification, s.
_TIMEOUT_S = 10


class WebhookNotifier(BaseNotifier):
    """Posts `{"event": "rolled_back", "model": …, "title": …, "text": …, …}`; `text` is what Slack and its kin show."""

    def __init__(self, conn_id: str = "slipway_webhook") -> None:
        super().__init__()
        self.conn_id = conn_id

    def notify(self, context: Context) -> None:
        """Post the news.

        Raises:
            PlatformError: it was not taken.
        """
        news: News = cast(Mapping[str, Any], context)["news"]
        post(Connection.get(self.conn_id), news.model_dump(mode="json"))


def post(connection: Any, body: Mapping[str, Any]) -> None:
    """One request, without following redirects: a token is for the host that the connection names."""
    import httpx

    headers = {"Authorization": f"Bearer {connection.password}"} if connection.password else {}
    try:
        answer = httpx.post(address(connection), json=body, headers=headers, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise PlatformError(f"the webhook of {connection.conn_id} does not answer: {type(error).__name__}") from error
    if not answer.is_success:
        raise PlatformError(f"the webhook of {connection.conn_id} answered {answer.status_code}")


def address(connection: Any) -> str:
    """The URL that a connection stands for."""
    host = str(connection.host or "")
    if "://" in host:
        return host
    port = f":{connection.port}" if connection.port else ""
    path = str(connection.extra_dejson.get("path", "")).lstrip("/")
    return f"{connection.schema or 'https'}://{host}{port}/{path}"
