"""What can be asked for: deployment names and aliases, each bound to a backend, a model and a device preference.

Owns the built-in deployments, the merge with the user's, and lookup by name. Knows no process and no HTTP.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, Field, InstanceOf

from app.config.settings import ConfigError, DeploymentSettings, Settings
from backends.interface import Task
from backends.registry import BackendInfo, UnknownOption, backend_info, backend_names, check_options


class Deployment(DeploymentSettings):
    """One configured model: the settings of its table, checked, with what they refer to.

    name: in requests; info: of its backend; options: the backend-specific keys, checked and complete with defaults;
    builtin: not configured by the user. `model` is never empty where the backend has a default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    info: InstanceOf[BackendInfo]
    options: Mapping[str, Any] = Field(default_factory=dict)
    builtin: bool = False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it does; the `task` option chooses where a backend could do several."""
        chosen = self.options.get("task")
        return (chosen,) if chosen in self.info.tasks else self.info.tasks


# The large models are fetched only when somebody asks for it: `speech-gateway pull NAME`, or auto_pull = true.
BUILTIN: Mapping[str, Mapping[str, Any]] = {
    "embedded-tts": {"backend": "voices"},
    # On the processor whatever else there is: small enough, ready at once, and never in the way of a larger model.
    "embedded-asr": {"backend": "whisper", "model": "whisper-base", "engine": "onnx", "device": "cpu"},
    "whisper-1": {"backend": "whisper", "model": "openai/whisper-small", "fallback": "embedded-asr"},
    "diarize": {"backend": "diarization", "auto_pull": False},
    "csm-1b": {"backend": "csm", "model": "sesame/csm-1b", "auto_pull": False, "fallback": "embedded-tts"},
    "llasa-1b": {"backend": "llasa", "model": "HKUSTAudio/Llasa-1B", "auto_pull": False, "fallback": "embedded-tts"},
    "diffa": {"backend": "diffa", "auto_pull": False, "audio_deployment": "embedded-tts"},
}
BUILTIN_ALIASES: Mapping[str, str] = {
    "whisper": "whisper-1",
    "gpt-4o-transcribe": "whisper-1",
    "gpt-4o-mini-transcribe": "whisper-1",
    "gpt-transcribe": "whisper-1",
    "gpt-4o-transcribe-diarize": "diarize",
    "gpt-realtime-whisper": "whisper-1",
    "gpt-live-transcribe": "whisper-1",
    "tts-1": "csm-1b",
    "tts-1-hd": "csm-1b",
    "gpt-4o-mini-tts": "llasa-1b",
    "gpt-4o-audio-preview": "diffa",
    "gpt-4o-mini-audio-preview": "diffa",
    "gpt-audio": "diffa",
    "gpt-audio-mini": "diffa",
}


_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}\Z")


class Deployments(Mapping[str, Deployment]):
    """All deployments by name; aliases resolve to them but are not listed as keys."""

    def __init__(self, by_name: Mapping[str, Deployment], aliases: Mapping[str, str]) -> None:
        """aliases: alias -> name of a deployment, already followed to its end."""
        self._by_name, self.aliases = dict(by_name), dict(aliases)

    def __getitem__(self, name: str) -> Deployment:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def resolve(self, name: str) -> Deployment | None:
        """The deployment behind a name or an alias, of a model's dated snapshot too (gpt-4o-mini-tts-2025-12-15); None
        if there is none."""
        deployment = self._by_name.get(self.aliases.get(name, name))
        if deployment is None and (dated := _SNAPSHOT.search(name)):
            return self.resolve(name[: dated.start()])
        return deployment

    @classmethod
    def from_settings(cls, settings: Settings) -> Deployments:
        """The built-in deployments with the user's over them. Raises ConfigError, naming file, table and key."""
        try:
            return cls._from_settings(settings)
        except ConfigError as error:
            raise settings.explained(error) from error

    @classmethod
    def _from_settings(cls, settings: Settings) -> Deployments:
        for kind, names in (("deployments", settings.deployments), ("aliases", settings.aliases)):
            _check_printable(kind, names)
        builtin = [
            name for name in BUILTIN if name not in settings.deployments and _is_installed(BUILTIN[name]["backend"])
        ]
        by_name = {name: _build(name, BUILTIN[name], True) for name in builtin}
        by_name |= {
            name: _build(name, _over_builtin(name, table), False) for name, table in settings.deployments.items()
        }
        aliases = _follow_aliases(by_name, settings)
        linked = {name: _link(deployment, by_name, aliases) for name, deployment in by_name.items()}
        for deployment in linked.values():
            _check_fallbacks(deployment, linked)
        deployments = cls(linked, aliases)
        _check_realtime(deployments, settings)
        return deployments


def _check_realtime(deployments: Deployments, settings: Settings) -> None:
    """Refuse names that the user set and that mean nothing; of the defaults one may be missing."""
    tasks: Mapping[str, Task] = {"transcription": "transcription", "chat": "chat", "speech": "speech"}
    for key in tasks.keys() & settings.realtime.model_fields_set:
        name = getattr(settings.realtime, key)
        deployment = deployments.resolve(name)
        if deployment is None or tasks[key] not in deployment.tasks:
            problem = "there is no deployment" if deployment is None else f"no {tasks[key]} is done by"
            raise ConfigError(f"[realtime] {key}: {problem} {name!r}", ("realtime", key))


# Unicode's control characters, lone surrogates, separators of lines and of paragraphs.
_CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")


def _check_printable(kind: str, names: Iterable[str]) -> None:
    """Refuse control characters: names stand in the banner and the log, where they would steer the terminal."""
    for name in names:
        if any(unicodedata.category(character) in _CONTROL_CATEGORIES for character in name):
            raise ConfigError(f"[{kind}] {name!r}: a name may hold no control character", (kind, name))


def _is_installed(backend: str) -> bool:
    """A backend whose package is not part of this installation is left out of the built-in deployments."""
    try:
        backend_info(backend)
    except ModuleNotFoundError:
        return False
    return True


def _over_builtin(name: str, table: DeploymentSettings) -> dict[str, Any]:
    """The user's keys, over those of the built-in deployment of that name unless another backend is asked for."""
    own = {key: getattr(table, key) for key in table.model_fields_set} | (table.model_extra or {})
    base = BUILTIN.get(name, {})
    if own.get("backend", base.get("backend")) != base.get("backend"):
        base = {}
    return {**base, **own}


def _build(name: str, table: Mapping[str, Any], builtin: bool) -> Deployment:
    backend = str(table.get("backend", ""))
    if backend not in backend_names():
        problem = f"{backend!r} does not exist" if backend else "is missing"
        raise _key_error(name, "backend", f"{problem}; known: {', '.join(backend_names())}")
    try:
        info = backend_info(backend)
    except ModuleNotFoundError as error:
        raise _key_error(name, "backend", f"{backend!r} is not part of this installation ({error})") from error
    if table.get("engine", "auto") not in ("auto", *info.engines):
        raise _key_error(name, "engine", f"{table['engine']!r} is not one of auto, {', '.join(info.engines)}")
    values = {key: value for key, value in table.items() if key in DeploymentSettings.model_fields}
    values["model"] = values.get("model") or info.default_model
    return Deployment(name=name, info=info, options=_options(name, info, table), builtin=builtin, **values)


def _key_error(name: str, key: str, what: str) -> ConfigError:
    return ConfigError(f'[deployments."{name}"] {key}: {what}', ("deployments", name, key))


def _alias_error(alias: str, what: str) -> ConfigError:
    return ConfigError(f'[aliases] "{alias}": {what}', ("aliases", alias))


def _options(name: str, info: BackendInfo, table: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in table.items() if key not in DeploymentSettings.model_fields}
    try:
        return check_options(info, own)
    except UnknownOption as error:
        raise _key_error(name, error.key, str(error)) from error


def _follow_aliases(by_name: Mapping[str, Deployment], settings: Settings) -> dict[str, str]:
    for alias in settings.aliases:
        if alias in by_name:
            raise _alias_error(alias, "is the name of a deployment already")
    links = {alias: name for alias, name in BUILTIN_ALIASES.items() if alias not in by_name} | settings.aliases
    followed = {alias: _end_of(alias, links) for alias in links}
    for alias, name in followed.items():
        if name not in by_name and alias in settings.aliases:
            raise _alias_error(alias, f"there is no deployment {name!r}")
    return {alias: name for alias, name in followed.items() if name in by_name}


def _end_of(alias: str, links: Mapping[str, str]) -> str:
    seen = [alias]
    while (target := links.get(seen[-1])) is not None:
        if target in seen:
            raise _alias_error(alias, f"goes round in a circle: {' -> '.join([*seen, target])}")
        seen.append(target)
    return seen[-1]


def _link(deployment: Deployment, by_name: Mapping[str, Deployment], aliases: Mapping[str, str]) -> Deployment:
    """The deployment with the names of others it refers to followed through aliases."""
    targets: dict[str, Any] = {}
    for key in ("fallback", "audio_deployment"):
        name = getattr(deployment, key)
        target = by_name.get(aliases.get(name, name))
        if name and target is None:
            raise _key_error(deployment.name, key, f"there is no deployment {name!r}")
        if target is not None:
            targets[key] = target.name
    speaker = by_name.get(targets.get("audio_deployment", ""))
    if speaker is not None and "speech" not in speaker.tasks:
        raise _key_error(deployment.name, "audio_deployment", f"{speaker.name!r} does not speak")
    return deployment.model_copy(update=targets)


def _check_fallbacks(deployment: Deployment, by_name: Mapping[str, Deployment]) -> None:
    seen = [deployment.name]
    while name := by_name[seen[-1]].fallback:
        if name in seen:
            raise _key_error(deployment.name, "fallback", f"goes round in a circle: {' -> '.join([*seen, name])}")
        if not set(deployment.tasks) <= set(by_name[name].tasks):
            raise _key_error(deployment.name, "fallback", f"{name!r} does not do {' and '.join(deployment.tasks)}")
        seen.append(name)
