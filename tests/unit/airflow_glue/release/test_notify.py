"""Notifiers by configuration, and the webhook against a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from airflow.sdk import BaseNotifier, Connection

from tasks.airflow_glue.release.news import News, end_of, wanted
from tasks.airflow_glue.release.notify import VARIABLE, NewsNotifier, configured, made, refuse_unusable, tell
from tasks.airflow_glue.release.webhook import address, post
from tasks.errors import BadInput, PlatformError
from tasks.release.contracts import Phase
from tests import releasing

WEBHOOK = "tasks.airflow_glue.release.webhook.WebhookNotifier"
SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
HERE = f"{__name__}.Remembering"


class Remembering(BaseNotifier):
    """Another notifier: what it was told is in `told`."""

    template_fields = ("subject",)
    told: list[str] = []  # noqa: RUF012  for all instances: one is made for each news

    def __init__(self, subject: str = "{{ news.title }}") -> None:
        super().__init__()
        self.subject = subject

    def notify(self, context: Any) -> None:
        if self.subject == "broken":
            raise ConnectionError("no mail server")
        self.told.append(self.subject)


@dataclass
class Received:
    """What a server was sent, and where it listens."""

    port: int
    requests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    status: int = 200


@pytest.fixture
def server() -> Iterator[Received]:
    received = Received(0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.requests.append((self.path, self.headers.get("Authorization", ""), json.loads(body)))
            self.send_response(received.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        received.port = listening.server_port
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield received
        listening.shutdown()
        thread.join()


@pytest.fixture
def news() -> News:
    found = end_of(releasing.release(Phase.ROLLED_BACK))
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    Remembering.told.clear()


def _configure(monkeypatch: pytest.MonkeyPatch, *notifiers: dict[str, Any]) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps(notifiers))


def _connection(server: Received, **changes: Any) -> Connection:
    values = {"conn_id": "hook", "conn_type": "http", "host": "127.0.0.1", "port": server.port, "schema": "http"}
    return Connection(**{**values, "extra": json.dumps({"path": "/hooks/release"}), **changes})


def test_without_configuration_nobody_is_told(news: News, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    tell(news, {})
    assert configured() == ()


def test_any_notifier_that_is_named_is_told_and_its_templates_see_the_news(
    news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    _configure(monkeypatch, {"notifier": HERE}, {"notifier": HERE, "with": {"subject": "{{ news.event }}!"}})
    tell(news, {})
    assert Remembering.told == [news.title, "rolled_back!"]


def test_a_notifier_is_told_only_what_it_is_for(news: News, monkeypatch: pytest.MonkeyPatch) -> None:
    _configure(monkeypatch, {"notifier": HERE, "only": ["approval_wanted"]})
    tell(news, {})
    assert Remembering.told == []
    tell(wanted(releasing.release()), {})
    assert len(Remembering.told) == 1


def test_one_that_fails_keeps_no_other_from_being_told(
    news: News, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _configure(monkeypatch, {"notifier": HERE, "with": {"subject": "broken"}}, {"notifier": HERE})
    tell(news, {})
    assert Remembering.told == [news.title]
    assert "did not deliver" in caplog.text


def test_airflows_own_notifiers_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _configure(monkeypatch, {"notifier": SMTP, "with": {"to": "ml@example.com"}}, {"notifier": WEBHOOK})
    refuse_unusable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not a list of notifiers"),
        ('[{"notifer": "a.B"}]', "notifer"),
        ('[{"notifier": "no.such.Module"}]', "cannot be imported"),
        ('[{"notifier": "json.JSONDecoder"}]', "no notifier"),
        (f'[{{"notifier": "{WEBHOOK}", "with": {{"url": "x"}}}}]', "cannot be made"),
        (f'[{{"notifier": "{WEBHOOK}", "only": ["promotion"]}}]', "only"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_before_anything_depends_on_it(
    monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(BadInput, match=said):
        refuse_unusable()


def test_news_can_be_given_where_airflow_takes_a_notifier(news: News, monkeypatch: pytest.MonkeyPatch) -> None:
    _configure(monkeypatch, {"notifier": HERE})
    NewsNotifier(news)({})
    assert Remembering.told == [news.title]


def test_the_webhook_is_sent_the_news_as_json(news: News, server: Received) -> None:
    post(_connection(server, password="secret"), news.model_dump(mode="json"))
    ((path, authorization, body),) = server.requests
    assert path == "/hooks/release"
    assert authorization == "Bearer secret"
    assert body["event"] == "rolled_back"
    assert body["model"] == "digits"
    assert body["candidate"] == releasing.deployed("2").package


def test_the_notifier_takes_the_url_from_an_airflow_connection(
    news: News, server: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SLIPWAY_WEBHOOK", f"http://127.0.0.1:{server.port}/http?path=hook")
    _configure(monkeypatch, {"notifier": WEBHOOK})
    tell(news, {})
    assert [path for path, _, _ in server.requests] == ["/hook"]


def test_a_webhook_that_does_not_take_it_says_so_and_never_where_it_is(news: News, server: Received) -> None:
    server.status = 500
    with pytest.raises(PlatformError, match="hook answered 500") as error:
        post(_connection(server), news.model_dump(mode="json"))
    assert str(server.port) not in str(error.value)


def test_a_whole_url_as_host_is_taken_as_it_is(server: Received) -> None:
    assert address(_connection(server, host="https://hooks.example.com/a/b")) == "https://hooks.example.com/a/b"


def test_a_connection_without_a_scheme_is_encrypted(server: Received) -> None:
    assert address(_connection(server, schema=None)).startswith("https://")


def test_a_notifier_is_made_with_what_is_configured() -> None:
    (notified,) = configured({VARIABLE: json.dumps([{"notifier": WEBHOOK, "with": {"conn_id": "other"}}])})
    assert made(notified).conn_id == "other"  # type: ignore[attr-defined]
