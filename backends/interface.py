"""The contract between the gateway and every model.

Owns the values that cross the process boundary (requests, events, placement, capabilities; errors lie in
`backends.errors`) and the `Backend`
protocol. Knows no HTTP and no tensor library: numpy and the standard library only, so that the gateway may import it.

Conventions: audio is float32 [time], mono, in -1..1; rates are Hz; times are seconds; sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

# Part of the contract; the gateway's translator gives each error its HTTP status.
from backends.errors import BackendError as BackendError
from backends.errors import DeviceLost as DeviceLost
from backends.errors import Failed as Failed
from backends.errors import InvalidInput as InvalidInput
from backends.errors import ModelUnavailable as ModelUnavailable
from backends.errors import OutOfMemory as OutOfMemory

Samples = NDArray[np.float32]
Task = Literal["transcription", "speech", "chat", "diarization"]

ASR_SAMPLE_RATE = 16_000  # Hz, what every speech recogniser here is trained on


# --- Where a model runs and what it is -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placement:
    """The device manager's decision for one worker.

    device: "cpu", "cuda:0", "directml:0", "mps", "xpu"; dtype: "float32", "float16", "bfloat16", "int8" or "auto" (the
    backend measures and decides); engine: one of the backend's engines; threads: CPU threads the worker may use;
    memory_bytes: what it may occupy on the device (None: no budget); reason: one sentence for logs and /health.
    """

    device: str = "cpu"
    dtype: str = "auto"
    engine: str = "auto"
    threads: int = 1
    memory_bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a backend is told about the model it serves.

    model: hub id or folder as configured; folder: where it lies on disk (None for engines without weights);
    options: the backend-specific keys of the deployment, checked against the backend's options class;
    models_dir: the root of all weights (voices lie in models_dir/voices); user_dir: the user's configuration folder;
    normalize_text: text to speak is read as a person would read it, unless a request says otherwise.
    """

    deployment: str
    model: str
    folder: Path | None
    models_dir: Path
    user_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    normalize_text: bool = True


@dataclass(frozen=True, slots=True)
class Voice:
    """One voice of a speech backend.

    id: what a request names; name: for people; languages: BCP 47 codes, () = any; licence: of the voice, "" = the
    model's.
    """

    id: str
    name: str = ""
    languages: tuple[str, ...] = ()
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded model can do, told by `Backend.load`.

    engine, device, dtype: what really runs (shown in response headers); sample_rate: of the audio it produces (0:
    none); max_batch: jobs that one step may hold; languages: ISO 639-1 codes it accepts (() = not restricted);
    native_speed: the backend honours SpeechRequest.speed itself; max_live: live jobs that it may hold beside those of
    a step (0: it has none, see `backends.live`); detail: facts for /health (JSON values only), which the backend may
    change in place later: the worker tells.
    """

    engine: str
    device: str
    dtype: str
    max_batch: int = 1
    sample_rate: int = 0
    languages: tuple[str, ...] = ()
    voices: tuple[Voice, ...] = ()
    words: bool = False
    logprobs: bool = False
    translation: bool = False
    diarization: bool = False
    native_speed: bool = False
    max_live: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether the backend takes audio that comes while its job runs."""
        return self.max_live > 0


# --- Requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunking:
    """Voice-activity chunking of a transcription (`chunking_strategy`): threshold 0..1, times in milliseconds."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 200


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """Speech to text.

    samples: float32 [time] at 16 kHz, possibly a read-only memory map; language: ISO 639-1 or None (detect);
    languages: ISO 639-1 codes that alone are considered where the language is detected, () = all; keywords: words to
    expect; temperature: 0 lets the backend try higher ones where a text is bad, above 0 is used as it is; words: word
    times are wanted.
    """

    samples: Samples
    language: str | None = None
    languages: tuple[str, ...] = ()
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    temperature: float = 0.0
    words: bool = False
    logprobs: bool = False
    diarize: bool = False
    chunking: Chunking | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContextTurn:
    """An earlier utterance of a conversation: its audio (samples at the backend's input_rate) or the id of an
    answer."""

    speaker: str
    text: str
    samples: Samples | None = None
    answer_id: str | None = None


@dataclass(frozen=True, slots=True)
class VoiceSample:
    """A clip to clone a voice from: samples at the backend's input_rate, transcript "" if unknown."""

    samples: Samples
    transcript: str = ""


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """Text to speech.

    voice: an id from Capabilities.voices; speed: 0.25..4, honoured by the backend only if it has native_speed (the
    gateway changes tempo otherwise); stream: chunks are sent as they are made, which a backend may decode differently;
    answer_id: the name under which the backend may keep this answer for later context; seed: None = random; language:
    the primary code of the text's language as far as it is known, "" if not, for voices that speak several.
    """

    text: str
    voice: str
    speed: float = 1.0
    instructions: str = ""
    stream: bool = False
    seed: int | None = None
    answer_id: str = ""
    context: tuple[ContextTurn, ...] = ()
    reference: VoiceSample | None = None
    language: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class AudioPart:
    """samples: float32 [time] at 16 kHz."""

    samples: Samples


@dataclass(frozen=True, slots=True)
class Message:
    """role: system, user or assistant (developer is mapped to system before it gets here)."""

    role: str
    parts: tuple[TextPart | AudioPart, ...]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A question about audio. max_tokens None: the backend's default; stop: texts that end the answer (cut before)."""

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DiarizationRequest:
    """Who speaks when.

    samples: float32 [time] at 16 kHz, possibly a read-only memory map; min_speakers, max_speakers: how many may be
    found, None = any number; references: clips of known speakers, as samples.
    """

    samples: Samples
    min_speakers: int = 1
    max_speakers: int | None = None
    references: tuple[Samples, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


Request = TranscriptionRequest | SpeechRequest | ChatRequest | DiarizationRequest


# --- Events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """token: its text; bytes: UTF-8 bytes of it; logprob: natural logarithm."""

    token: str
    bytes: tuple[int, ...]
    logprob: float


@dataclass(frozen=True, slots=True)
class Word:
    """word: without surrounding space; start, end: seconds from the beginning of the audio; speaker: who says it, None
    where that was not asked."""

    word: str
    start: float
    end: float
    probability: float = 1.0
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer; all deltas of a job joined are its whole text."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished piece of transcript. seek: position of its window in 10 ms frames; text keeps its leading space."""

    id: int
    start: float
    end: float
    text: str
    seek: int = 0
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    words: tuple[Word, ...] = ()
    speaker: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """Time in which a speaker speaks, in seconds; speaker: from 0 in order of appearance."""

    start: float
    end: float
    speaker: int


@dataclass(frozen=True, slots=True)
class SpeakerTurns:
    """Who speaks when. turns: in order, they may overlap; exclusive: the same with one speaker at a time, for the
    words; known: the number of each reference's speaker, -1 = not heard."""

    turns: tuple[Turn, ...] = ()
    exclusive: tuple[Turn, ...] = ()
    known: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """samples: float32 [time], mono; rate: Hz, the same for all chunks of a job."""

    samples: Samples
    rate: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done of steps planned (total 0: unknown)."""

    done: int
    total: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a job; audio counts are part of the totals. audio_seconds: input length."""

    input_tokens: int = 0
    output_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    audio_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of a job that succeeded. text: whole transcript or answer (speech: ""); language: ISO 639-1.

    timings: seconds by stage name; notes: remarks the client should see (a warning header each), e.g. "audio cut at 30
    s".
    """

    text: str = ""
    language: str | None = None
    finish_reason: Literal["stop", "length"] = "stop"
    usage: Usage = field(default_factory=Usage)
    seed: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Event = TextDelta | Segment | SpeakerTurns | AudioChunk | Progress | Done | Failed


# --- The protocol -----------------------------------------------------------------------------------------------------


class Job(Protocol):
    """One request in progress; what it holds is the backend's own business.

    But for `notes`, where it has them: remarks as in Done, strings. Those that stand when `start` returns are told at
    once, so that the headers of an answer that is streamed can bear them; Done repeats them.
    """


class Backend(Protocol):
    """One loaded model. All calls come from one thread of the worker process."""

    def load(self, model: ModelFiles, placement: Placement) -> Capabilities:
        """Load the weights. Raises ModelUnavailable or OutOfMemory."""

    def canary(self) -> Request:
        """A small request that exercises the whole path: warm-up after load, and /health?deep=1."""

    def start(self, request: Request) -> Job:
        """Tokenise, encode audio, prefill. Raises InvalidInput for a request it cannot serve."""

    def step(self, jobs: Sequence[Job]) -> Iterable[tuple[Job, Event]]:
        """One iteration for all active jobs (at most max_batch). A job is over once its Done or Failed was given.

        A step that raises must leave its jobs as they were: the worker repeats it for each of them alone.
        """

    def close(self, job: Job) -> None:
        """Finished or cancelled: free what it holds. Called exactly once per started job."""

    def footprint(self) -> int:
        """Bytes the model occupies on its device now."""
