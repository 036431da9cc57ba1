"""News of a release through Airflow's notifiers: any of them, named by configuration.

SLIPWAY_NOTIFIERS is JSON, in the environment of every Airflow component:

    [{"notifier": "tasks.airflow_glue.release.webhook.WebhookNotifier", "with": {"conn_id": "slipway_webhook"}},
     {"notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier", "only": ["rolled_back", "held"],
      "with": {"to": "ml@example.com", "subject": "{{ news.title }}", "html_content": "{{ news.text }}"}}]

A notifier's templates see the news as `news`. One that cannot be used is found out when a release begins, and a news
that cannot be delivered is an error in the log: it changes nothing of what happens to users.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier
from pydantic import Field, TypeAdapter, ValidationError

from tasks.airflow_glue.release.news import Event, News
from tasks.contracts import Contract
from tasks.errors import BadInput

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

VARIABLE = "SLIPWAY_NOTIFIERS"

_log = logging.getLogger(__name__)


class Notified(Contract):
    """One notifier as it is configured."""

    notifier: str = Field(pattern=r"^[\w.]+\.\w+$", description="import path of a class")
    only: tuple[Event, ...] = Field(tuple(Event), description="the events that it is for")
    arguments: dict[str, Any] = Field(default_factory=dict, alias="with", description="what it is made with")


def configured(environment: Mapping[str, str] | None = None) -> tuple[Notified, ...]:
    """The notifiers that the environment names.

    Raises:
        BadInput: it is not JSON of the form above.
    """
    text = (os.environ if environment is None else environment).get(VARIABLE) or "[]"
    try:
        return TypeAdapter(tuple[Notified, ...]).validate_python(json.loads(text))
    except (ValidationError, ValueError) as error:
        raise BadInput(f"{VARIABLE} is not a list of notifiers: {error}; see docs/airflow.md") from error


def made(notified: Notified) -> BaseNotifier:
    """The notifier itself.

    Raises:
        BadInput: there is no such class, it is no notifier, or it does not take these arguments.
    """
    module, _, name = notified.notifier.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"{VARIABLE} names {notified.notifier}, which cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, BaseNotifier)):
        raise BadInput(f"{VARIABLE} names {notified.notifier}, which is no notifier of Airflow's (BaseNotifier)")
    try:
        return kind(**notified.arguments)
    except TypeError as error:
        raise BadInput(f"{VARIABLE}: {notified.notifier} cannot be made: {error}") from error


def refuse_unusable() -> None:
    """Find out that a notifier cannot be used before anything depends on it.

    Raises:
        BadInput: as `configured` and `made`.
    """
    for notified in configured():
        made(notified)


def tell(news: News, context: Mapping[str, Any]) -> None:
    """Give the news to every notifier that is for it. Raises nothing."""
    _log.info("%s%s", news.title, f"\n{news.text}" if news.text else "")
    try:
        notifiers = [item for item in configured() if news.event in item.only]
    except BadInput:
        _log.exception("nobody was told")
        return
    for notified in notifiers:
        try:
            made(notified)({**context, "news": news})
        except Exception:  # noqa: BLE001  whatever a notifier raises: a release does not fail because a mail server does
            _log.exception("%s did not deliver the news %s of %s", notified.notifier, news.event, news.release)


class NewsNotifier(BaseNotifier):
    """One piece of news for those places of Airflow's that take a notifier: gives it to the configured ones."""

    def __init__(self, news: News) -> None:
        super().__init__()
        self.news = news

    def notify(self, context: Context) -> None:
        """Tell the news."""
        tell(self.news, context)
