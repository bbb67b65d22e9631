"""Jobs that wait for the codes of their clips: how they get them without holding up the jobs beside them.

Importing the encoder's library takes seconds of CPU time. It is imported at the first need only, in a thread; the jobs
beside go on. Then every step does one thing for the jobs that wait: it reads the encoder's weights, or encodes one
clip.
The thread does nothing but import, no tensors and no device: the main thread may be capturing CUDA graphs meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from backends.interface import BackendError, Failed, ModelUnavailable
from backends.llasa.codec import Codec
from backends.llasa.jobs import SpeechJob
from backends.llasa.model import Llasa
from backends.llasa.voices import Voices
from backends.llasa.xcodec2.encoder import import_semantic_model

_PATIENCE = (
    0.05  # seconds a step waits for the thread if there is nothing else to do: new jobs and cancels are seen between
)


class LibraryImport:
    """The encoder's library on its way into memory."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: ModelUnavailable | None = None

    def begin(self) -> threading.Thread:
        """The thread that imports it: at work, done, or begun now."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="encoder import", daemon=True)
            self._thread.start()
        return self._thread

    def is_there(self, patience: float) -> bool:
        """Whether it is imported, `patience` seconds from now at the latest.

        Raises ModelUnavailable, once, if it cannot be imported: whoever asks next begins a new try.
        """
        thread = self.begin()
        thread.join(patience)
        if thread.is_alive():
            return False
        if self._failure is not None:
            failure, self._failure, self._thread = self._failure, None, None
            raise failure
        return True

    def _run(self) -> None:
        try:
            import_semantic_model()
        except ModelUnavailable as error:
            self._failure = error


class Cloning:
    """Brings clips to codes for the jobs of one deployment."""

    def __init__(self, model: Llasa, codec: Codec, voices: Voices) -> None:
        self._model, self._codec, self._voices = model, codec, voices
        self._library = LibraryImport()

    def prepare(self, job: SpeechJob) -> None:
        """Begin what a job will wait for, if its voice has a clip without codes."""
        if job.clip is not None:
            self._library.begin()

    def step(self, waiting: Sequence[SpeechJob], *, alone: bool) -> dict[SpeechJob, Failed]:
        """Bring the first of the waiting jobs nearer to its codes; returns those that cannot have any, with the reason.

        alone: no other job has anything to do. What is raised besides left the jobs as they were.
        """
        if not waiting:
            return {}
        try:
            if not self._library.is_there(_PATIENCE if alone else 0):
                return {}
        except ModelUnavailable as error:
            return dict.fromkeys(waiting, error.to_event())
        try:
            self._advance(waiting[0])
        except BackendError as error:
            return {waiting[0]: error.to_event()}
        return {}

    def _advance(self, job: SpeechJob) -> None:
        if not self._codec.encoder_loaded:
            self._codec.load_encoder()
        else:
            job.speak_as(self._voices.encoded(job.voice), self._model, self._codec.dims.hop)
