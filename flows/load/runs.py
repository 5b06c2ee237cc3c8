"""Puts a load run together from settings and wishes: its plan, what it is judged by, and whose server it meets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.load import place, thresholds
from flows.load.chaos import Chaos
from flows.load.plan import plan_for
from flows.load.session import Asked, run
from flows.load.thresholds import BadExpression
from flows.playground import NotStarted, Playground
from ssot.runs import Kind, RunRecord
from ssot.settings import Settings


def asked(
    settings: Settings,
    kind: Kind,
    base_url: str | None,
    wishes: Mapping[str, Any],
    given: Sequence[str] = (),
    gates: Sequence[str] = (),
) -> Asked:
    """What a run is asked to do. `given` and `gates` are expressions that replace the settings' for their measures.

    Raises BadPlan, BadExpression, pydantic.ValidationError.
    """
    plan = plan_for(kind, base_url or settings.api_url, **wishes)
    known = thresholds.catalogue()
    try:
        usual = thresholds.parse_list(settings.load_thresholds, known)
    except BadExpression as error:
        raise BadExpression(f"KIRCERTA_LOAD_THRESHOLDS: {error}") from None
    is_measured = thresholds.measured_by(plan)
    wished = tuple(thresholds.parse(one, known) for one in given)
    guarded = thresholds.parse_list(",".join(thresholds.DEFAULT_GATES), thresholds.GATES)
    return Asked(
        plan=plan,
        thresholds=thresholds.laid_over((one for one in usual if is_measured(one.measure)), wished),
        gates=thresholds.laid_over(guarded, (thresholds.parse(one, thresholds.GATES) for one in gates)),
    )


def carry_out(settings: Settings, wanted: Asked, *, own_server: bool = False) -> RunRecord:
    """Carry a run out. Raises NotHere.

    Args:
        own_server: whether the run starts its own API and dispatcher on a workspace of its own: what chaos kills.
    """
    if own_server:
        return _on_playground(settings, wanted)
    wanted.token = place.token_for(settings, wanted.plan.duration_s)
    if wanted.plan.kind == "chaos":
        wanted.trouble = Chaos(settings, wanted.plan, None)
    return run(settings, wanted)


def _on_playground(settings: Settings, wanted: Asked) -> RunRecord:
    """The run meets the playground's API, with a token that its key signs; the record stays in the workspace."""
    try:
        with Playground(settings, "chaos") as playground:
            wanted.plan = wanted.plan.model_copy(update={"base_url": playground.settings.api_url})
            wanted.token = place.token_for(playground.settings, wanted.plan.duration_s)
            wanted.trouble = Chaos(playground.settings, wanted.plan, playground)
            return run(playground.settings, wanted, records=settings)
    except NotStarted as error:
        raise place.NotHere(str(error)) from None
