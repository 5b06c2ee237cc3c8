"""The deployments: what the Prefect UI can start, with forms and schedules. Runs start in subprocesses, within seconds.

For everything that has to be quick there is the dispatcher, which calls the same flows in its own process.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from flows.server import use_environment
from flows.workspace import home_tag
from ssot.settings import Settings

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Schedule

NAME: Final = "kircerta"
_SCHEDULED: Final[dict[str, timedelta | str]] = {
    "dispatch_pending": timedelta(minutes=1),
    "watchdog": timedelta(minutes=1),
    "drain_inbox": timedelta(minutes=1),
    "poll_telegram": timedelta(minutes=10),  # as long as a run polls: the next one goes on
    "backfill_github": timedelta(minutes=10),
    "sign_head": timedelta(minutes=1),
    "soak": "0 3 * * SAT",
    "report_audit": timedelta(hours=1),
    "acceptance": "30 2 * * *",
    "prune_runs": "30 6 * * *",
}
"""How often, or when (cron, UTC), what has a schedule is meant to run, once somebody switches it on."""
_TAGS: Final[dict[str, str]] = {
    "dispatch_task": "dispatch",
    "dispatch_pending": "dispatch",
    "redispatch": "decision",
    "close_task": "decision",
    "land_approved": "decision",
    "watchdog": "watch",
    "poll_telegram": "ingest",
    "backfill_github": "ingest",
    "drain_inbox": "ingest",
    "sign_head": "evidence",
    "soak": "load",
    "flood": "load",
    "stress": "load",
    "chaos": "load",
    "calibrate_reviewer": "review",
    "report_run": "report",
    "report_audit": "report",
    "acceptance": "acceptance",
    "prune_runs": "retention",
}


async def deployments(settings: Settings) -> list[RunnerDeployment]:
    """One deployment a flow. Those with a schedule have it switched off: people switch it on in the UI."""
    from prefect.types.entrypoint import EntrypointType

    name = await _free_name(settings)
    known = await _known(name)
    made = []
    for flow in all_flows():
        is_new = flow.name in _SCHEDULED and flow.name not in known
        # Only a new deployment gets its schedule: switched on by a person, it stays on.
        schedules = [_schedule(_SCHEDULED[flow.name])] if is_new else None
        made.append(
            await flow.ato_deployment(
                name=name,
                description=flow.description,
                tags=["kircerta", home_tag(settings.home), _TAGS[flow.name]],
                schedules=schedules,
                # By module, not by path: a path would load the file a second time, and put flows/ on sys.path.
                entrypoint_type=EntrypointType.MODULE_PATH,
                version="1",
            )
        )
    return made


def _schedule(when: timedelta | str) -> Schedule:
    """A schedule that is switched off."""
    from prefect.schedules import Schedule

    return Schedule(cron=when, active=False) if isinstance(when, str) else Schedule(interval=when, active=False)


async def _free_name(settings: Settings) -> str:
    """The deployments' name: with the workspace's digest where another workspace of that server has the plain one."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    own = home_tag(settings.home)
    async with get_client() as client:
        try:
            found = await client.read_deployment_by_name(f"dispatch_task/{NAME}")
        except ObjectNotFound:
            return NAME
    return NAME if own in found.tags else f"{NAME}-{own.removeprefix('home:')}"


async def _known(name: str) -> set[str]:
    """The flows that have a deployment of that name already."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    known = set()
    async with get_client() as client:
        for flow in sorted(_SCHEDULED):
            with suppress(ObjectNotFound):
                await client.read_deployment_by_name(f"{flow}/{name}")
                known.add(flow)
    return known


def all_flows() -> list[Any]:
    """Every flow that is served."""
    from flows.accept.deployed import acceptance
    from flows.calibration.deployed import calibrate_reviewer
    from flows.dispatch import close_task, dispatch_pending, dispatch_task, redispatch
    from flows.drain_inbox import drain_inbox
    from flows.ingest import backfill_github, poll_telegram
    from flows.land_approved import land_approved
    from flows.load.deployed import chaos, flood, soak, stress
    from flows.prune_runs import prune_runs
    from flows.report import report_audit, report_run
    from flows.sign_head import sign_head
    from flows.watchdog import watchdog

    dispatching = [dispatch_task, dispatch_pending, redispatch, close_task, land_approved]
    ingesting = [poll_telegram, backfill_github, drain_inbox]
    loading, reporting = [soak, flood, stress, chaos], [report_run, report_audit]
    ours = [*loading, calibrate_reviewer, *reporting, acceptance, prune_runs]
    return [*dispatching, watchdog, *ingesting, sign_head, *ours]


def serve_deployments(settings: Settings) -> None:
    """Serve all deployments until SIGTERM or Ctrl-C. The environment tells their runs which workspace is meant."""
    use_environment(settings)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from prefect.runner import Runner

    class Serving(Runner):
        """Ends its runs on SIGTERM, each as cancelled: Prefect's own handler forgets to await that, and the runs
        would be shown as running for ever."""

        def handle_sigterm(self, *_: Any, **__: Any) -> None:
            asyncio.run_coroutine_threadsafe(self.astop(), asyncio.get_running_loop())

    # Schedules stay as people set them: they are not paused because this process ends.
    serving = Serving(pause_on_shutdown=False)
    for deployment in await deployments(settings):
        await serving.aadd_deployment(deployment)
    await serving.start()
