"""When the log's head is signed: by one process, after so many events or so long. It signs nothing that contradicts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from audit.event import Draft
from audit.head import Checkpoints
from audit.keys import SigningKey
from audit.note import Unproven
from audit.signer import NothingToSign, Rewritten, Signed
from ssot.alarms import Raised, State, draft
from ssot.settings import Settings
from ssot.signing import signer_of, signing_key
from ssot.store import Store

EVERY_EVENTS: Final = 100
EVERY_S: Final = 60.0
ALARM: Final = "log_rewritten"
_LOG = logging.getLogger("kircerta.heads")


class HeadSchedule:
    """Signs the head every `EVERY_EVENTS` events, and `EVERY_S` seconds after the last time where any came since."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._checkpoints = Checkpoints(store.audit_folder)
        self._key: SigningKey | None = None
        self._looked_at = float("-inf")
        self._signed_at = float("-inf")
        self._stopped = False

    def turn(self, now: float) -> Signed | None:
        """Sign the head if that is due; `now` in seconds of a clock that only goes forward.

        Raises Busy, StorageFailed, BadKey; it is tried again later. A log that contradicts what was signed before is
        told by an alarm, and nothing is signed any more until a person has looked and starts this process again.
        """
        if self._stopped or not self._is_due(now):
            return None
        key = self._found_key(now)
        if key is None:
            return None
        self._signed_at = now
        try:
            signed = signer_of(self._settings, key).sign()
        except NothingToSign:
            return None
        except (Rewritten, Unproven) as error:
            self._stopped = True
            _LOG.error("%s", error)
            self._tell("raised", str(error)[:1000])
            return None
        self._tell("cleared", "the log continues what was signed")
        return signed

    def _tell(self, state: State, reason: str) -> None:
        """Raise the alarm or clear it, unless that is how it stands."""

        def look(standing: Mapping[str, Raised]) -> list[Draft]:
            if (ALARM in standing) == (state == "raised"):
                return []
            return [draft(ALARM, state, reason, {}, "kircerta")]

        self._store.tell_alarms(look)

    def _is_due(self, now: float) -> bool:
        waiting = self._store.last_seq() - max(self._checkpoints.sizes(), default=0)
        if waiting == 0:
            return False
        return now - self._signed_at >= (1.0 if waiting >= EVERY_EVENTS or waiting < 0 else EVERY_S)

    def _found_key(self, now: float) -> SigningKey | None:
        """The key; looked for again now and then, for it may come or change. The keyring is asked once."""
        if now - self._looked_at >= EVERY_S:
            first, self._looked_at = self._looked_at == float("-inf"), now
            found = signing_key(self._settings, keyring=first)
            if found is not None or self._key is None or self._key.origin == "file":
                self._key = found
        return self._key
