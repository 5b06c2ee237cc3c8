"""Landing as a flow: the dispatcher calls it once a task is approved, people start it again from the UI."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import dispatch, exhibits
from flows.landing import LANDING, BeingLanded, Landed, LandingRefused, NotAsked, land
from flows.workspace import current


@flow(name="land_approved", flow_run_name="{task_id} lands", persist_result=False)
async def land_approved(task_id: dispatch.TaskId) -> State[Any]:
    """Bring an approved change onto its project's branch as one commit: once, and only as it was approved.

    Off unless `config/projects.toml` asks for it. A conflict, or a check that fails where the change would stand, ends
    as Failed with the reason; nothing is forced.

    Args:
        task_id: The task's id, e.g. `T-7`.
    """
    dispatch.began.get()()
    try:
        landed = await land(current(), task_id, LANDING)
    except NotAsked as error:
        return Completed(name="NotAsked", message=str(error))
    except BeingLanded as error:
        return Completed(name="BeingLanded", message=str(error))
    except LandingRefused as error:
        await _page(
            task_id, f"Not landed: **{exhibits.escaped(error.reason)}**\n\n{exhibits.escaped(str(error), 2000)}"
        )
        return Failed(name="".join(word.capitalize() for word in error.reason.split("_")), message=str(error))
    await _page(task_id, f"`{landed.commit}` on {exhibits.escaped(landed.branch)}")
    return Completed(name="Landed" if landed.is_new else "LandedBefore", message=_told(landed))


async def _page(task_id: str, text: str) -> None:
    key = f"{exhibits.key_of(task_id)}-landing"
    await acreate_markdown_artifact(f"{text}\n", key=key, description=f"Where the change of {task_id} went")


def _told(landed: Landed) -> str:
    return f"{landed.task_id} stands on {landed.branch} as {landed.commit[:12]}"
