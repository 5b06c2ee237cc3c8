"""Signing the log's head as a flow: for a schedule of its own, and for a start from the UI before something counts."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from audit.signer import NothingToSign, Signed
from flows.workspace import current
from ssot.counted import counted
from ssot.settings import Settings
from ssot.signing import signer_of, signing_key


@flow(name="sign_head", persist_result=False)
async def sign_head() -> State[Any]:
    """Sign the log's head as a C2SP checkpoint and keep it, here and where the settings say; a rewritten log fails."""
    signed = await asyncio.to_thread(_sign, current().settings)
    if signed is None:
        return Completed(name="NothingSigned", message="the log is empty, or there is no key: `kircerta keys create`")
    page = f"{counted(signed.head.size, 'event')}, root `{signed.head.root.hex()}`\n\n```\n{signed.note.decode()}```\n"
    await acreate_markdown_artifact(page, key="signed-head", description="The log's signed head")
    if signed.not_copied is not None:
        raise RuntimeError(f"the checkpoint at {signed.head.size} is not kept elsewhere: {signed.not_copied}")
    return Completed(
        name="Signed" if signed.is_new else "SignedBefore",
        message=f"{counted(signed.head.size, 'event')} of {signed.head.origin}",
    )


def _sign(settings: Settings) -> Signed | None:
    key = signing_key(settings)
    if key is None:
        return None
    try:
        return signer_of(settings, key).sign()
    except NothingToSign:
        return None
