"""Encoding reference clips for the jobs that need them, without delaying the other jobs.

Importing the encoder's library takes seconds of CPU time. It is imported at the first need only, in a thread, while the
other jobs go on. Then every step does one thing for the jobs that wait: it reads the encoder's weights, or encodes one
clip. The thread only imports and touches no tensor and no device, since the main thread may be capturing CUDA graphs.
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

# Seconds that a step waits for the import if there is nothing else to do; new jobs and cancels are seen between steps.
_IMPORT_WAIT = 0.05


class LibraryImport:
    """The import of the encoder's library, in a thread."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: ModelUnavailable | None = None

    def begin(self) -> threading.Thread:
        """The importing thread, started now if it was not before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="encoder import", daemon=True)
            self._thread.start()
        return self._thread

    def is_done(self, timeout: float) -> bool:
        """Whether the library is imported; waits up to `timeout` seconds.

        Raises ModelUnavailable, once, if it cannot be imported: the next call starts a new try.
        """
        thread = self.begin()
        thread.join(timeout)
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
    """Encodes the reference clips of the jobs of one deployment."""

    def __init__(self, model: Llasa, codec: Codec, voices: Voices) -> None:
        self._model, self._codec, self._voices = model, codec, voices
        self._library = LibraryImport()

    def prepare(self, job: SpeechJob) -> None:
        """Start the import if the job's voice has a clip to encode."""
        if job.clip is not None:
            self._library.begin()

    def step(self, waiting: Sequence[SpeechJob], *, alone: bool) -> dict[SpeechJob, Failed]:
        """Do one step towards the codes of the first waiting job; returns the jobs that failed, with the reason.

        alone: no other job has anything to do. Other errors leave the jobs unchanged.
        """
        if not waiting:
            return {}
        try:
            if not self._library.is_done(_IMPORT_WAIT if alone else 0):
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
            job.use_voice(self._voices.encoded(job.voice), self._model, self._codec.dims.hop)
