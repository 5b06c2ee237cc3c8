"""The acceptance as people start it in the Prefect UI, or a schedule does at night: the command, in its own process."""

from __future__ import annotations

from typing import Any, Final, Literal

import orjson
from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import exhibits
from flows.accept.record import Acceptance
from flows.command import carry_out
from flows.workspace import current_settings
from ssot.counted import counted

LONGEST_S: Final = 900.0
_ENDS_S: Final = 30.0
_PAGE: Final = "reports/acceptance.html"
ModuleName = Literal["truth-and-gate", "stream", "webhooks", "agents", "load"]


@flow(name="acceptance", persist_result=False)
async def acceptance(modules: tuple[ModuleName, ...] = ()) -> State[Any]:
    """The acceptance checklist, on workspaces of its own: does what is promised hold?

    Args:
        modules: Only these modules; all of them by default.
    """
    settings = current_settings()
    wanted = [part for name in modules for part in ("--module", name)]
    try:
        said = await carry_out(settings, "accept", "--json", *wanted, longest_s=LONGEST_S, ends_within_s=_ENDS_S)
        found = Acceptance.model_validate(orjson.loads(said.out), strict=False)
    except TimeoutError:
        return Failed(name="TooLong", message=f"the acceptance took longer than {LONGEST_S:g} s")
    except ValueError:
        return Failed(name="NotCarriedOut", message=said.last_word)
    await acreate_markdown_artifact(page(found, settings.api_url), key="acceptance", description=_summary(found))
    return state_of(found)


def state_of(found: Acceptance) -> State[Any]:
    """`Accepted`, or `NotAccepted` with what does not hold."""
    if found.ok:
        return Completed(name="Accepted", message=_summary(found))
    broken = [f"{of.name}: {one.name}" for of in found.modules for one in of.checks if not one.ok]
    return Failed(name="NotAccepted", message="; ".join(broken)[:2000])


def _summary(found: Acceptance) -> str:
    checks = [one.ok for of in found.modules for one in of.checks]
    open_ = sum(len(of.not_shown) for of in found.modules)
    return (
        f"{sum(checks)} of {counted(len(checks), 'check')} held, {counted(open_, 'thing is', 'things are')} not shown"
    )


def page(found: Acceptance, api_url: str) -> str:
    """The artifact: a link to the page, what fails, and what is not shown."""
    link = f"[The page]({api_url.rstrip('/')}/{_PAGE})"
    rows = (
        ("holds" if one.ok else "**fails**", of.name, exhibits.escaped(one.name), exhibits.escaped(one.detail))
        for of in found.modules
        for one in of.checks
    )
    lines = [f"# {_summary(found)}", "", link, "", *exhibits.table(("", "module", "check", "detail"), rows), ""]
    lines += [f"- not shown ({of.name}): {exhibits.escaped(one)}" for of in found.modules for one in of.not_shown]
    return "\n".join(lines) + "\n"
