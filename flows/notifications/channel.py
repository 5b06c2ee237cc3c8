"""Sends one message to one URL, by Apprise, within a time. The only place that has a URL in its hands."""

from __future__ import annotations

import logging
import threading
from typing import Final

from flows.notifications.notice import Message
from flows.notifications.targets import LOG_URL

TIMEOUT_S: Final = 10.0
_LOG: Final = logging.getLogger("kircerta.notifications")


class NotSent(Exception):
    """A message did not go out. The message says why without the URL; `for_good`: trying again cannot help."""

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


def send(url: str, message: Message, timeout_s: float = TIMEOUT_S) -> None:
    """Send it, and wait for the service's answer. Raises NotSent.

    It happens in a thread that is left behind when the time is over: services hang in more places than time-outs reach.
    """
    if url == LOG_URL:
        _LOG.warning("%s: %s", message.title, message.body.replace("\n", " | "))
        return
    answer: list[NotSent | None] = []
    thread = threading.Thread(target=lambda: answer.append(_sent(url, message)), name="notification", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not answer:
        raise NotSent(f"no answer within {timeout_s:g} s")
    if answer[0] is not None:
        raise answer[0]


def _sent(url: str, message: Message) -> NotSent | None:
    """What went wrong, None for nothing. Whatever Apprise says may hold the URL: none of it is passed on."""
    try:
        import apprise  # 0.2 s, and another 0.3 s for its plugins: only who sends something pays for that

        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        asset = apprise.AppriseAsset(app_id="kircerta", app_desc="kircerta", async_mode=False, secure_logging=True)
        plugin = apprise.Apprise.instantiate(url, asset=asset)
        if plugin is None:
            return NotSent("its URL is none that Apprise knows", for_good=True)
        if not plugin.notify(title=message.title, body=message.body, body_format=apprise.NotifyFormat.TEXT):
            return NotSent("the service did not take it")
        return None
    except Exception as error:
        return NotSent(f"the service could not be used ({type(error).__name__})")
