"""What the user can set: environment SPEECH_GATEWAY_* over gateway.toml over the defaults here.

Owns names, defaults and validation of the configuration. Knows nothing of what the values do. Every field's description
is what docs/configuration.md prints, so it is written for users.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ApiKey(_Table):
    """One accepted key and the name under which logs mention it."""

    name: str
    key: SecretStr


class ServerSettings(_Table):
    host: str = Field("127.0.0.1", description="Address to listen on; another than loopback needs api_keys.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_keys: list[ApiKey] = Field(default_factory=list, description="Accepted keys; empty: any non-empty key is accepted.")
    admin_key: SecretStr | None = Field(
        None, description="Key for control routes; unset: they accept any valid key, from loopback clients only."
    )
    drain_seconds: float = Field(30.0, ge=0, description="Seconds that running requests get at shutdown.")
    api_versions: list[str] = Field(default_factory=list, description="Further api-version values to accept.")


class LimitSettings(_Table):
    body_bytes: int = Field(26_214_400, gt=0, description="Largest request body, bytes (413).")
    audio_seconds: float = Field(7200.0, gt=0, description="Longest audio of one request, seconds (400).")
    decoded_bytes: int = Field(1_073_741_824, gt=0, description="Most memory that decoding one upload may fill, bytes (400).")
    upload_seconds: float = Field(120.0, gt=0, description="Longest time an upload may take, seconds (408).")
    form_fields: int = Field(1000, gt=0, description="Most fields of one form (400).")
    queue_seconds: float = Field(120.0, gt=0, description="Longest predicted wait that is accepted, seconds (429).")
    queue_jobs: int = Field(64, gt=0, description="Most requests waiting for one deployment (429).")


class DeviceSettings(_Table):
    memory_budget: Literal["auto"] | dict[str, str | int] = Field(
        "auto", description='Memory the models may use: "auto", or per device such as { "cuda:0" = "14GiB", cpu = "8GiB" }.'
    )


class DeploymentSettings(BaseModel):
    """One [deployments.NAME] table. Keys that are not named here belong to the backend, which checks them."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    backend: str = Field(description="whisper | diffa | llasa | csm | espeak | pocketsphinx | fake")
    model: str = Field("", description="Hub id, or a folder; empty: the backend's default.")
    engine: str = Field("auto", description="One of the backend's engines.")
    device: str = Field("auto", description="cuda:0, directml:0, mps, xpu, cpu, or auto.")
    dtype: str = Field("auto", description="float32, bfloat16, float16, int8, or auto.")
    keep_alive: float = Field(
        600, ge=-1, description="Seconds a loaded model stays without work; 0 = unload at once, -1 = never."
    )
    preload: bool = Field(False, description="Load at start.")
    auto_pull: bool = Field(True, description="Fetch missing weights in the background at start, unless offline.")
    fallback: str = Field(
        "", description="Another deployment that answers while this one cannot; named in every answer it gives."
    )
    python: str = Field("", description="Another interpreter for this worker.")
    voices: dict[str, str] = Field(default_factory=dict, description="Voice name in requests -> voice of the backend.")
    audio_deployment: str = Field("", description="Chat deployments: the speech deployment that speaks their answers.")
    revision: str = Field("", description="Hub revision (commit or tag) of the weights; empty: the newest.")


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(env_prefix="SPEECH_GATEWAY_", env_nested_delimiter="__", extra="forbid")

    server: ServerSettings = Field(default_factory=ServerSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    devices: DeviceSettings = Field(default_factory=DeviceSettings)
    deployments: dict[str, DeploymentSettings] = Field(default_factory=dict)
    aliases: dict[str, str] = Field(default_factory=dict)
    models_dir: Path = Field(Path("models"), description="Folder that holds weights and voices.")
    offline: bool = Field(False, description="Never reach for a model hub.")


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Settings from `config` (default: ./gateway.toml if present), the environment, and `overrides` on top."""
    raise RuntimeError("written by the owner of this file")
