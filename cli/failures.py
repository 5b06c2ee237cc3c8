"""What can go wrong in a command: how each error reads in one line, and the exit code it means."""

from __future__ import annotations

from typing import Final

DOES_NOT_HOLD: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130


class Failure(Exception):
    """Ends a command with one line on stderr. What was checked or asked for does not hold: exit code 1."""

    code = DOES_NOT_HOLD


class WrongUse(Failure):
    """The command cannot be carried out as it was given, or not here: exit code 2."""

    code = WRONG_USE


def explain(error: Exception) -> tuple[str, int]:
    """The line and the exit code of an error. What nobody expected is named by its type."""
    if isinstance(error, Failure):
        return str(error), error.code
    known = _known(error)
    if known is not None:
        return known
    said = str(error).partition("\n")[0]
    return f"unexpected {type(error).__name__}: {said} (--debug shows where)", DOES_NOT_HOLD


def _known(error: Exception) -> tuple[str, int] | None:
    # Imported here: a command that succeeds does not pay for it.
    from audit.event import Corrupt
    from audit.files import Busy, NotRegular, StorageFailed
    from audit.keys import BadKey
    from audit.note import Unproven
    from audit.reader import Rewound
    from audit.signer import NothingToSign, Rewritten
    from ssot.importers import ImportRefused
    from ssot.settings import SettingsError
    from ssot.store import Refused
    from ssot.task import Invalid
    from ssot.view import BadCursor

    match error:
        case Refused(code="invalid_task_id") | SettingsError() | ImportRefused() | BadCursor():
            return str(error), WRONG_USE
        case Refused() | Busy() | StorageFailed() | Invalid() | NotRegular() | Rewound():
            return str(error), DOES_NOT_HOLD
        case BadKey():
            return str(error), WRONG_USE
        case Unproven():
            return f"it does not hold: {error}", DOES_NOT_HOLD
        case NothingToSign() | Rewritten():
            return str(error), DOES_NOT_HOLD
        case Corrupt():
            return f"{error} (`kircerta audit verify` shows where)", DOES_NOT_HOLD
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{error.strerror or error}", DOES_NOT_HOLD
        case _:
            return None
