"""The settings of one process: read once, at its entry point, then handed on frozen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict

from audit.log import SEGMENT_BYTES
from audit.mac import MacKey
from ssot.rules import Policy
from ssot.store import StoreSettings

LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
MIN_SECRET_BYTES: Final = 32
JWT_SECRET_FILE: Final = Path(".secrets") / "jwt_secret"


class SettingsError(Exception):
    """A setting cannot be used; the message names it and says what is expected."""


class Settings(BaseSettings):
    """Everything that can be set, from the environment (prefix ``KIRCERTA_``) and a ``.env`` file."""

    model_config = SettingsConfigDict(
        env_prefix="KIRCERTA_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(Path("."), description="The workspace that holds `ssot/`, `audit/` and `reports/` data.")
    jwt_secret: SecretStr | None = Field(
        None,
        description="HS256 key of the tokens, at least 32 bytes. `kircerta up` makes one in `.secrets/`.",
    )
    github_secret: SecretStr | None = Field(
        None, description="HMAC-SHA256 key of `/webhooks/github`; several, comma-separated, while rotating."
    )
    xcode_secret: SecretStr | None = Field(
        None, description="Shared secret of `/webhooks/xcode`; several, comma-separated."
    )
    telegram_secret: SecretStr | None = Field(
        None, description="Secret token of `/webhooks/telegram`; several, comma-separated."
    )
    telegram_token: SecretStr | None = Field(None, description="The poller's bot token.")
    telegram_api: str = Field("https://api.telegram.org", description="The Bot API's base URL.")
    github_api: str = Field("https://api.github.com", description="The GitHub API's base URL.")
    github_token: SecretStr | None = Field(
        None, description="The token with which `backfill_github` asks GitHub; it may read and write webhooks."
    )
    github_hooks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="The webhooks whose failed deliveries `backfill_github` asks for again: `owner/repo/ID` of a "
        "repository, `org/ID` of an organization, `app` of a GitHub App. Comma-separated.",
    )
    api_url: str = Field(
        "http://127.0.0.1:8000", description="Where the command and the flows find kircerta's API over HTTP."
    )
    prefect_api_url: str | None = Field(
        None,
        validation_alias="PREFECT_API_URL",
        description="A Prefect server; used for a dispatch only if its deployments serve this workspace.",
    )
    token: SecretStr | None = Field(None, description="The token that `kircerta approve` and `reject` send.")
    ack_timeout_s: float = Field(30.0, gt=0, le=86400, description="Seconds from a dispatch to a valid ACK.")
    heartbeat_warning_s: float = Field(
        30.0, gt=0, le=86400, description="Seconds of executor silence before `heartbeat_warning`."
    )
    max_rejects: int = Field(3, ge=1, le=1000, description="Rejected attempts in a row before `reject_lock`.")
    max_body_bytes: int = Field(
        1048576, ge=1024, le=64 * 1048576, description="Larger bodies get 413 (GitHub: 25 MiB)."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        LOOPBACK_NAMES, description="Other `Host` headers get 421. Comma-separated."
    )
    read_auth: bool = Field(False, description="Whether reads ask for a `viewer` token on a loopback bind, too.")
    trust_history: bool = Field(False, description="Whether an attempt that arrived inside a file may be approved.")
    auto_redispatch: bool = Field(
        True,
        description="Whether a rejection at the gate starts the next attempt by itself (never once locked).",
    )
    execution_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=7 * 86400,
        description="Seconds a local executor may take from its ACK to its result.",
    )
    review_timeout_s: float = Field(3600.0, gt=0, le=7 * 86400, description="Seconds a local reviewer may take.")
    orphan_after_s: float = Field(
        120.0,
        gt=0,
        description="Seconds after which a local attempt that no process runs is ended as `orphaned`.",
    )
    dispatch_concurrency: int = Field(4, ge=1, le=64, description="How many dispatches run at once in one process.")
    alarm_loop_lag_s: float = Field(
        1.0, gt=0, description="Seconds for which the API's event loop may stall before an alarm is raised."
    )
    alarm_stream_s: float = Field(
        5.0, gt=0, description="Seconds for which the event stream may stand behind the log before an alarm is raised."
    )
    alarm_gone_s: float = Field(
        15.0,
        gt=0,
        description="Seconds for which a dispatcher or Prefect server may be gone before an alarm is raised.",
    )
    alarm_disk_bytes: int = Field(
        512 * 1048576, ge=0, description="Less free space than this raises an alarm; 0 for none."
    )
    alarm_log_bytes: int = Field(
        64 * 1048576, gt=0, description="An alarm is raised when the log grows by more bytes than this in a minute."
    )
    load_thresholds: str = Field(
        "read_p95<200,write_p95<500,read_error_rate<0.01,write_error_rate<0.01,stream_silence_max<5,stream_gaps<1,"
        "stream_repeats<1,alarms_missing<1,lost_decisions<1,flood_accepted<1,chaos_problems<1",
        description="What a load run must hold, where it measures it; `kircerta load … --threshold` replaces one.",
    )
    segment_bytes: int = Field(
        SEGMENT_BYTES, ge=65536, description="A segment of the log is closed when it has this size."
    )
    lock_timeout_s: float = Field(5.0, gt=0, le=60, description="Seconds to wait for the workspace's lock.")
    signing_key: SecretStr | None = Field(
        None,
        description="Ed25519 key that signs the log's head: base64 of its seed of 32 bytes, or PEM. Without it the "
        "keyring is asked, then `.secrets/signing_key` (`kircerta keys create`).",
    )
    keyring: bool = Field(True, description="Whether the system's keyring is asked for the signing key.")
    checkpoint_copy: Path | None = Field(
        None,
        description="Where each checkpoint is kept besides: a git repository (a commit each), another folder (a file "
        "each) or a file.",
    )

    @field_validator("allowed_hosts", "github_hooks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def store(self) -> StoreSettings:
        """What the store needs of it."""
        return StoreSettings(
            policy=Policy(max_rejects=self.max_rejects, trust_history=self.trust_history),
            lock_timeout_s=self.lock_timeout_s,
            segment_bytes=self.segment_bytes,
            mac_key=self.mac_key,
        )

    @property
    def mac_key(self) -> MacKey | None:
        """The server's key for decisions; None where there is no secret."""
        return MacKey.derived(self.jwt_secret.get_secret_value()) if self.jwt_secret is not None else None


def load(**overrides: Any) -> Settings:
    """The settings of this process. Raises SettingsError.

    Every secret ``KIRCERTA_X`` may come as a path in ``KIRCERTA_X_FILE``; the token key that `up` made is found in
    the workspace's ``.secrets/``.
    """
    try:
        settings = Settings(**{**_secrets_from_files(os.environ, _dot_env()), **overrides})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise SettingsError(f"{_variable(name)}: {first['msg']}") from None
    settings = settings.model_copy(update={"home": settings.home.absolute()})
    if settings.home.exists() and not settings.home.is_dir():
        raise SettingsError(f"KIRCERTA_HOME: {settings.home} is not a folder: name the workspace's own")
    settings = _with_kept_key(settings)
    if settings.jwt_secret and len(settings.jwt_secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
        raise SettingsError(f"KIRCERTA_JWT_SECRET: at least {MIN_SECRET_BYTES} bytes are needed")
    return settings


def secret_files() -> dict[str, Path]:
    """The files in which secrets of this process may lie: those that `KIRCERTA_X_FILE` names, and the `.env` file."""
    named = {**_dot_env(), **os.environ}
    found = {name: path for name, path in named.items() if name.startswith("KIRCERTA_") and name.endswith("_FILE")}
    return {**{name: Path(path).absolute() for name, path in found.items() if path}, ".env": Path(".env").absolute()}


def _variable(name: str) -> str:
    return name if name == "PREFECT_API_URL" else f"KIRCERTA_{name.upper()}"


def _dot_env() -> Mapping[str, str | None]:
    """What the ``.env`` file says, by upper-case name."""
    return {name.upper(): value for name, value in DotEnvSettingsSource(Settings).env_vars.items()}


def _secrets_from_files(environment: Mapping[str, str], dot_env: Mapping[str, str | None]) -> dict[str, str]:
    found = {}
    for name, field in Settings.model_fields.items():
        variable = f"{_variable(name)}_FILE"
        path = environment.get(variable)
        if path is None and _variable(name) not in environment:  # the environment comes before the `.env` file
            path = dot_env.get(variable)
        if path and field.annotation == (SecretStr | None):
            try:
                found[name] = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"{variable}: {path} cannot be read ({error})") from None
    return found


def _with_kept_key(settings: Settings) -> Settings:
    if settings.jwt_secret is not None:
        return settings
    try:
        kept = (settings.home / JWT_SECRET_FILE).read_text().strip()
    except OSError:
        return settings
    return settings.model_copy(update={"jwt_secret": SecretStr(kept)}) if kept else settings
