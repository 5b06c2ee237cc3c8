"""A delivery as it came: proven, with the headers that matter, and not yet read. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from ssot import strict_json
from ssot.ingest import github, telegram, xcode
from ssot.ingest.delivery import BadPayload, Delivery, Sender

EVENT: Final = "x-github-event"
DELIVERY: Final = "x-github-delivery"


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a sender sent. `body` is its JSON; `headers` are those that the reader needs, never a secret."""

    sender: Sender
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def opened(self, hide: Callable[[Any], Any] | None = None) -> tuple[Parcel, Delivery]:
        """What it says, and the parcel as it may be kept: `hide` strikes secrets out of the payload.

        Raises NotStrictJSON, BadPayload.
        """
        payload = strict_json.loads(self.body)
        shown = payload if hide is None else hide(payload)
        kept = self if shown == payload else replace(self, body=orjson.dumps(shown))
        return kept, self._read(shown)

    def _read(self, payload: Any) -> Delivery:
        if self.sender == "github":
            try:
                return github.read(self.headers[EVENT], self.headers[DELIVERY], payload)
            except KeyError as error:
                raise BadPayload(f"the header {error} is missing") from None
        return xcode.read(payload) if self.sender == "xcode" else telegram.read(payload)
