"""Who says what in a transcription: what is asked for, which deployments answer, and the job beside the transcription.

Owns the fields of known speakers and of their number, the choice of a deployment that tells speakers apart, and that
job. Knows no format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from app.config.deployments import Deployment, Deployments
from app.errors import ApiError, InvalidRequest, ModelUnavailable
from app.routes.context import RequestContext
from app.routes.fields import checked_number, clean
from app.routes.inline_audio import audio_bytes
from app.routes.multipart import Form
from app.serving.interfaces import Pool
from backends.interface import ASR_SAMPLE_RATE, DiarizationRequest, Samples, SpeakerTurns

_MOST_KNOWN = 4
_MOST_SPEAKERS = 50
_NAME_CHARACTERS = 64
_CLIP_SECONDS = (2.0, 10.0)
_SLACK = 0.05  # seconds that a container adds to a clip
_LONGEST_DECODED = 60.0  # seconds; a clip that is longer is refused before it is decoded any further
_NAMES, _REFERENCES = "known_speaker_names", "known_speaker_references"
_USUAL = "gpt-4o-transcribe"  # the name under which clients ask for a transcription without speakers


@dataclass(frozen=True, slots=True)
class SpeakerFields:
    """What the form says of speakers. names, clips: of those that are known, clips as encoded audio; fewest, most: how
    many may be found, most None = any number."""

    names: tuple[str, ...] = ()
    clips: tuple[bytes, ...] = ()
    fewest: int = 1
    most: int | None = None

    @property
    def asked(self) -> bool:
        """Whether anything is said of speakers at all."""
        return bool(self.names) or self.fewest > 1 or self.most is not None


def read_speakers(fields: Form) -> SpeakerFields:
    """Raises InvalidRequest, naming the field."""
    names, references = fields.texts_of(_NAMES), fields.texts_of(_REFERENCES)
    if len(names) > _MOST_KNOWN:
        raise InvalidRequest(f"At most {_MOST_KNOWN} speakers can be known.", param=_NAMES)
    if len(names) != len(references):
        raise InvalidRequest("Every known speaker needs a name and a reference.", param=_REFERENCES)
    names = [_name(name) for name in names]
    if len(set(names)) < len(names):
        raise InvalidRequest("Two known speakers have the same name.", param=_NAMES)
    fewest, most = _limits(fields)
    return SpeakerFields(tuple(names), tuple(_clip(reference) for reference in references), fewest, most)


def _name(given: str) -> str:
    name = " ".join(clean(given).split())
    if not name or len(name) > _NAME_CHARACTERS:
        raise InvalidRequest(f"The name of a speaker has 1 to {_NAME_CHARACTERS} characters.", param=_NAMES)
    return name


def _clip(reference: str) -> bytes:
    if not reference.startswith("data:") or ";base64," not in reference[:200]:
        raise InvalidRequest(
            "A known speaker's reference is a data URL of 2 to 10 s of audio: data:audio/wav;base64,...",
            param=_REFERENCES,
        )
    return audio_bytes(reference, "A known speaker's reference", _REFERENCES)


def _limits(fields: Form) -> tuple[int, int | None]:
    exact, fewest, most = (_count(fields, f"{name}_speakers") for name in ("num", "min", "max"))
    if exact is not None:
        if fewest is not None or most is not None:
            raise InvalidRequest("num_speakers goes without min_speakers and max_speakers.", param="num_speakers")
        return exact, exact
    if fewest is not None and most is not None and fewest > most:
        raise InvalidRequest("min_speakers is more than max_speakers.", param="min_speakers")
    return fewest or 1, most


def _count(fields: Form, name: str) -> int | None:
    value = fields.text(name)
    if value is None:
        return None
    number = checked_number(value, name, 1, _MOST_SPEAKERS)
    if number != int(number):
        raise InvalidRequest(f"{name} must be a whole number.", param=name)
    return int(number)


# --- Which deployments answer -----------------------------------------------------------------------------------------


class Deployed(NamedTuple):
    """transcriber: hears the words; diarizer: tells speakers apart, None where nobody is there for that; named: the
    request asked for the diarizer by its name."""

    transcriber: Deployment
    diarizer: Deployment | None
    named: bool


def deployed(context: RequestContext, model: object, *, translate: bool) -> Deployed:
    """The deployments for a request. Raises as RequestContext.choose does, and ModelUnavailable where a diarizer has
    no transcriber."""
    known = context.gateway.deployments
    tasks = ("transcription",) if translate else ("transcription", "diarization")
    chosen = context.choose(model, *tasks)
    if "diarization" not in chosen.tasks:
        return Deployed(chosen, next((one for one in known.values() if "diarization" in one.tasks), None), False)
    return Deployed(transcriber_of(chosen, known), chosen, True)


def transcriber_of(diarizer: Deployment, known: Deployments) -> Deployment:
    """Who hears the words for a deployment that tells speakers apart. Raises ModelUnavailable."""
    wanted = str(diarizer.options.get("transcription_deployment", ""))
    usual = known.resolve(wanted or _USUAL)
    if usual is not None and "transcription" in usual.tasks:
        return usual
    if wanted:
        raise ModelUnavailable(
            f"{wanted!r}, the transcription_deployment of {diarizer.name!r}, transcribes nothing here."
        )
    for one in known.values():
        if "transcription" in one.tasks:
            return one
    raise ModelUnavailable(f"{diarizer.name!r} needs a deployment that transcribes, and there is none.")


# --- The job ----------------------------------------------------------------------------------------------------------


async def known_clips(context: RequestContext, clips: Sequence[bytes]) -> tuple[Samples, ...]:
    """The references as samples at 16 kHz. Raises InvalidRequest for one that is too short or too long."""
    return tuple([await _decoded_clip(context, clip) for clip in clips])


async def _decoded_clip(context: RequestContext, clip: bytes) -> Samples:
    media = context.gateway.media
    decoded = await media.decode(clip, rate=ASR_SAMPLE_RATE, param=_REFERENCES, max_seconds=_LONGEST_DECODED)
    context.keep(decoded)
    least, most = _CLIP_SECONDS
    if not least - _SLACK <= decoded.duration <= most + _SLACK:
        raise InvalidRequest(
            f"A known speaker's reference lasts {least:.0f} to {most:.0f} s, not {decoded.duration:.1f} s.",
            param=_REFERENCES,
        )
    return decoded.samples


async def speaker_turns(
    context: RequestContext, diarizer: Deployment, wanted: SpeakerFields, samples: Samples, clips: tuple[Samples, ...]
) -> SpeakerTurns:
    """Run the job to its end. Raises ApiError."""
    request = DiarizationRequest(samples, wanted.fewest, wanted.most, clips)
    with context.stage("diarization"):
        return await run_diarization(
            context.gateway.pool, diarizer, request, owner=context.client, request_id=context.request_id
        )


async def run_diarization(
    pool: Pool, diarizer: Deployment, request: DiarizationRequest, *, owner: str, request_id: str
) -> SpeakerTurns:
    """One job from its place in the queue to its end. Raises ApiError."""
    async with pool.admit(diarizer, owner=owner, request_id=request_id) as reservation:
        async for event in await reservation.run(request):
            if isinstance(event, SpeakerTurns):
                return event
    raise ApiError("Telling the speakers apart ended without a result.")


def turns_aside(
    context: RequestContext, diarizer: Deployment, wanted: SpeakerFields, samples: Samples, clips: tuple[Samples, ...]
) -> asyncio.Task[SpeakerTurns]:
    """The same beside the transcription; it ends with the request."""
    task = asyncio.create_task(speaker_turns(context, diarizer, wanted, samples, clips))
    context.stack.push_async_callback(_end, task)
    return task


async def _end(task: asyncio.Task[SpeakerTurns]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
