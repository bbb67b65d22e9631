"""What the user can set: names, defaults and descriptions of the whole configuration.

Knows nothing of what the values do, nor of where they come from: `app/config/loading.py` reads file and environment.
Every field's description is what docs/configuration.md prints, so it is written for users.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.config.cluster import ClusterSettings, ReplicaSettings
from backends.devices import parse_bytes
from backends.openai_voices import PLAIN_VOICE

_DEVICE = re.compile(r"cpu|mps|(cuda|directml|xpu)(:\d+)?|windowsml:[a-z0-9]+")
_DEVICES = "cpu, cuda:0, directml:0, mps, windowsml:amdgpu, xpu:0"
_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names the file or variable, the table and the key.

    path: the key, for those who know where it was set (`Settings.explained`).
    """

    def __init__(self, text: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class KeySources:
    """find: words for where a key was set, "" if nobody set it. Settings are equal wherever they come from."""

    find: Callable[[tuple[str, ...]], str] = field(default=lambda path: "", compare=False)


_sources: ContextVar[tuple[PydanticBaseSettingsSource, ...]] = ContextVar("_sources", default=())


@contextmanager
def settings_from(sources: Sequence[PydanticBaseSettingsSource]) -> Iterator[None]:
    """Inside, `Settings()` takes what it is not given from these, the first before the next."""
    token = _sources.set(tuple(sources))
    try:
        yield
    finally:
        _sources.reset(token)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KeyLimits(_Table):
    """What one key may ask for."""

    requests_per_minute: int = Field(
        default=0, ge=0, description="Most requests of this key in a minute (429); 0 = any number."
    )
    concurrent: int = Field(
        default=0, ge=0, description="Most requests of this key at the same time (429); 0 = any number."
    )


class ApiKey(KeyLimits):
    """One accepted key and the name under which logs mention it."""

    name: str
    key: SecretStr = Field(min_length=1)


class HashedKey(KeyLimits):
    """One accepted key of which only the digest is kept; its name is the table's."""

    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$", description="SHA-256 of the key in hexadecimal digits.")


class ServerSettings(_Table):
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; beyond loopback it needs api_keys, keys or open_to_network.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_keys: list[ApiKey] = Field(
        default_factory=list[ApiKey],
        description="Accepted keys; without these and keys any is accepted, and on loopback none is needed.",
    )
    keys: dict[str, HashedKey] = Field(
        default_factory=dict[str, HashedKey],
        description="Further accepted keys by name, as digests; `speech-gateway key new NAME` makes one.",
    )
    open_to_network: bool = Field(default=False, description="Listen beyond loopback although any key is accepted.")
    admin_key: SecretStr | None = Field(
        default=None,
        description="Key for control routes; unset: they accept any valid key, from loopback clients only.",
    )
    drain_seconds: float = Field(default=30.0, ge=0, description="Seconds that running requests get at shutdown.")
    api_versions: list[str] = Field(default_factory=list[str], description="Further api-version values to accept.")
    allowed_hosts: list[str] = Field(
        default_factory=list[str],
        description="Further Host names to answer to without a key or on loopback only (against DNS rebinding).",
    )
    cors_origins: list[str] = Field(
        default_factory=list[str],
        description='Web pages that may call the API, such as "https://chat.example"; "*" = all.',
    )
    tls: Literal["off", "auto", "files"] = Field(
        default="off",
        description='https instead of http: "auto" makes a certificate of this machine\'s own '
        '(`speech-gateway certificate` tells how to trust it), "files" takes certificate and certificate_key.',
    )
    certificate: str = Field(
        default="",
        description='For tls = "files": certificate in PEM, with its chain; read again when it changes.',
    )
    certificate_key: str = Field(default="", description="Its private key in PEM, without a password.")
    open_listings: bool = Field(
        default=False,
        description="List models and voices without a key, as Open WebUI and wyoming-openai ask for them.",
    )

    @property
    def several_owners(self) -> bool:
        """Whether more than one client can be distinguished: by keys, or by addresses where any key is accepted."""
        return len(self.api_keys) + len(self.keys) > 1 if self.needs_key else not is_loopback(self.host)

    @property
    def scheme(self) -> str:
        """Of its address."""
        return "http" if self.tls == "off" else "https"

    @property
    def needs_key(self) -> bool:
        """Whether only certain keys are accepted."""
        return bool(self.api_keys or self.keys)

    @model_validator(mode="after")
    def _keys_beyond_loopback(self) -> Self:
        if not (is_loopback(self.host) or self.needs_key or self.open_to_network):
            raise ValueError(
                f"host {self.host!r} can be reached from other machines, but any key would be accepted; "
                "set api_keys, or open_to_network = true if that is meant"
            )
        return self

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        named = [name for name in ("certificate", "certificate_key") if getattr(self, name)]
        if self.tls == "files" and len(named) < 2:
            raise ValueError('tls = "files" needs certificate and certificate_key')
        if named and self.tls != "files" and (self.tls == "auto" or "tls" not in self.model_fields_set):
            raise ValueError(f'{" and ".join(named)}: used with tls = "files" only')
        return self

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [*(key.name for key in self.api_keys), *self.keys]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"there is more than one key named {', '.join(twice)}")
        return self


class LimitSettings(_Table):
    body_bytes: int = Field(default=26_214_400, gt=0, description="Largest request body, bytes (413).")
    total_body_bytes: int = Field(
        default=0,
        ge=0,
        description="Most that the bodies of all requests hold together, bytes (429); 0 = ten times body_bytes.",
    )
    audio_seconds: float = Field(default=7200.0, gt=0, description="Longest audio of one request, seconds (400).")
    decoded_bytes: int = Field(
        default=4_294_967_296,
        gt=0,
        description="Most that one upload may decode to, bytes: frames x channels x 4 (400).",
    )
    upload_seconds: float = Field(default=120.0, gt=0, description="Longest time an upload may take, seconds (408).")
    form_fields: int = Field(default=1000, gt=0, description="Most fields of one form (400).")
    load_timeout: float = Field(
        default=600.0,
        gt=0,
        description="Longest time that the load of a model may take without progress, seconds (503).",
    )
    unread_bytes: int = Field(
        default=536_870_912,
        gt=0,
        description="Most that answers hold which their clients have not read yet, bytes; "
        "above it no further one begins (429).",
    )
    queue_seconds: float = Field(
        default=120.0, gt=0, description="Longest predicted wait that is accepted, seconds (429)."
    )
    queue_jobs: int = Field(default=64, gt=0, description="Most requests waiting for one deployment (429).")
    live_sessions: int = Field(default=32, ge=0, description="Most live audio sessions of one deployment (429).")

    @property
    def body_memory(self) -> int:
        """total_body_bytes with its default worked out."""
        return self.total_body_bytes or 10 * self.body_bytes

    @model_validator(mode="after")
    def _room_for_one(self) -> Self:
        if self.body_memory < self.body_bytes:
            raise ValueError(f"total_body_bytes {self.total_body_bytes} is less than body_bytes, {self.body_bytes}")
        return self


class RealtimeSettings(_Table):
    """Live transcription and spoken conversation over WebSocket."""

    transcription: str = Field(
        default="whisper-1", description="Deployment that writes down what is said, where the client names none."
    )
    chat: str = Field(
        default="diffa", description="Chat deployment that answers in conversations, unless chat_url is set."
    )
    chat_url: str = Field(
        default="",
        description="Base address of an OpenAI-compatible chat endpoint that answers, such as http://127.0.0.1:11434/v1.",
    )
    chat_model: str = Field(default="", description="Model to name to chat_url.")
    chat_key: SecretStr | None = Field(default=None, description="Key to send to chat_url.")
    speech: str = Field(default="embedded-tts", description="Speech deployment that speaks in conversations.")
    voice: str = Field(default=PLAIN_VOICE, description="Voice of conversations whose client names none.")
    sessions: int = Field(default=64, ge=0, description="Most realtime sessions at the same time (429).")
    sessions_per_key: int = Field(
        default=0, ge=0, description="Most realtime sessions of one key at the same time (429); 0 = any number."
    )
    session_seconds: float = Field(default=3600.0, gt=0, description="Longest time that a session stays open, seconds.")
    idle_seconds: float = Field(
        default=900.0, gt=0, description="Seconds after which a session is closed whose client sends nothing."
    )
    turn_seconds: float = Field(default=300.0, gt=0, description="Longest turn, seconds; a longer one is committed.")
    buffer_bytes: int = Field(
        default=16_777_216,
        ge=65_536,
        description="Most audio of one session that is held for its model and for the conversation, bytes each.",
    )

    @property
    def limits(self) -> dict[str, float]:
        """The limits, as /health shows them."""
        names = ("sessions", "sessions_per_key", "session_seconds", "idle_seconds", "turn_seconds", "buffer_bytes")
        return {name: getattr(self, name) for name in names}


class DeviceSettings(_Table):
    memory_budget: Literal["auto"] | dict[str, str | int] = Field(
        default="auto",
        description='Memory for models: "auto", or per device such as { "cuda:0" = "14GiB", cpu = "8GiB" }.',
    )

    @field_validator("memory_budget", mode="before")
    @classmethod
    def _sizes_of_devices(cls, budget: object) -> object:
        if budget != "auto" and not isinstance(budget, dict):
            raise ValueError(
                'must be "auto", or a table of devices and sizes such as { "cuda:0" = "14GiB", cpu = "8GiB" }'
            )
        for device, size in budget.items() if isinstance(budget, dict) else ():
            if not _DEVICE.fullmatch(str(device)):
                raise ValueError(f"there is no device {device!r}; known: {_DEVICES}")
            parse_bytes(size)
        return budget


class LogSettings(_Table):
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console for people, json for machines; auto: console on a terminal."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is written."
    )


class DeploymentSettings(BaseModel):
    """One [deployments.NAME] table. Keys that are not named here belong to the backend, which checks them."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    backend: str = Field(
        default="",
        description="Name of the backend, such as whisper or espeak; built-in deployments have theirs.",
    )
    model: str = Field(default="", description="Hub id, or a folder; empty: the backend's default.")
    engine: str = Field(default="auto", description="One of the backend's engines.")
    device: str = Field(default="auto", description="cuda:0, directml:0, windowsml:amdgpu, mps, xpu, cpu, or auto.")
    dtype: str = Field(default="auto", description="float32, bfloat16, float16, int8, or auto.")
    keep_alive: float = Field(
        default=600, ge=-1, description="Seconds a loaded model stays without work; 0 = unload at once, -1 = never."
    )
    preload: bool = Field(default=False, description="Load at start.")
    auto_pull: bool = Field(
        default=True, description="Fetch missing weights in the background at start, unless offline."
    )
    fallback: str = Field(
        default="", description="Another deployment that answers while this one cannot; named in every answer it gives."
    )
    python: str = Field(default="", description="Another interpreter for this worker.")
    voices: dict[str, str] = Field(default_factory=dict, description="Voice name in requests -> voice of the backend.")
    audio_deployment: str = Field(
        default="", description="Chat deployments: the speech deployment that speaks their answers."
    )
    normalize_text: bool = Field(
        default=True,
        description="Read text to speak as a person would: markdown, addresses, emoji, units, dates, [pause 1s]. "
        "A request may say otherwise: options.normalize_text.",
    )
    revision: str = Field(default="", description="Hub revision (commit or tag) of the weights; empty: the newest.")
    cluster: ReplicaSettings = Field(
        default_factory=ReplicaSettings, description="Its replicas over a cluster; the keys are listed below."
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if device != "auto" and not _DEVICE.fullmatch(device):
            raise ValueError(f"there is no device {device!r}; known: auto, {_DEVICES}")
        return device

    @field_validator("dtype")
    @classmethod
    def _known_dtype(cls, dtype: str) -> str:
        if dtype not in _DTYPES:
            raise ValueError(f"{dtype!r} is not one of {', '.join(_DTYPES)}")
        return dtype


class Settings(BaseSettings):
    """The whole configuration: the values given, over those of `settings_from`."""

    model_config = SettingsConfigDict(extra="forbid")

    server: ServerSettings = Field(default_factory=ServerSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    devices: DeviceSettings = Field(default_factory=DeviceSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    realtime: RealtimeSettings = Field(default_factory=RealtimeSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    deployments: dict[str, DeploymentSettings] = Field(default_factory=dict[str, DeploymentSettings])
    aliases: dict[str, str] = Field(default_factory=dict[str, str])
    models_dir: Path = Field(default=Path("models"), description="Folder that holds weights and voices.")
    offline: bool = Field(default=False, description="Never contact a model hub.")
    _key_sources: KeySources = PrivateAttr(default_factory=KeySources)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Ours in the place of pydantic's own, which ignore what they do not know and cannot say where it stands."""
        return (init_settings, *_sources.get())

    def come_from(self, key_sources: KeySources) -> Self:
        """Remember where each key was set, for errors that are found later."""
        self._key_sources = key_sources
        return self

    def explained(self, error: ConfigError) -> ConfigError:
        """The error with the file and line, the variable or the option that is wrong in front."""
        where = self._key_sources.find(error.path) if error.path else ""
        return ConfigError(f"{where}: {error}" if where else str(error))


def is_loopback(host: str) -> bool:
    """Only programs on this machine can reach the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
