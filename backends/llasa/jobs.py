"""One speech request in progress: its pieces, which of them may run, what they continue, and what has been sent.

Knows the model only through prompts and ids, and the codec through decoders; slots are the backend's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from backends.interface import AudioChunk, Done, Event, InvalidInput, SpeechRequest, Usage
from backends.llasa.chunking import Prompted, TextChunk, chunk_seed, token_cap
from backends.llasa.codec import Codec
from backends.llasa.generation_state import Utterance
from backends.llasa.model import Llasa
from backends.llasa.options import GenerationOptions
from backends.llasa.prompts import prompt_ids
from backends.llasa.streaming import StreamDecoder, decoded_whole
from backends.llasa.voices import Clip, Reference, SpeakingVoice

_LEAST_ROOM = 32  # tokens an answer must have room for


class SpeechJob:
    """texts: what the pieces say; notes: remarks for the client; timings: seconds, "encode" until the clip had its
    codes."""

    def __init__(
        self, request: SpeechRequest, voice: SpeakingVoice, generation: GenerationOptions, texts: list[str], seed: int
    ) -> None:
        self.request, self.voice, self.generation, self.seed = request, voice, generation, seed
        self.pieces = [TextChunk(text, chunk_seed(seed, number)) for number, text in enumerate(texts)]
        self.notes: list[str] = []
        self.timings = {"encode": 0.0, "generate": 0.0, "codec": 0.0}
        self._began = time.perf_counter()
        self._at = 0  # the piece whose audio is being sent
        self._decoder: StreamDecoder | None = None

    # --- what it speaks as ---

    @property
    def clip(self) -> Clip | None:
        """What has to be encoded before anything can run."""
        return self.voice.clip

    def speak_as(self, voice: SpeakingVoice, model: Llasa, hop: int) -> None:
        """Speak as the voice whose clip now has its codes. Raises InvalidInput if they leave no room to speak."""
        self.voice = voice
        self.timings["encode"] = time.perf_counter() - self._began
        self.check_room(model, hop)

    # --- what may run ---

    def startable(self) -> Iterator[TextChunk]:
        """Pieces that wait for a slot only. Without a speaker of its own, everything follows the first piece's
        voice."""
        for number, piece in enumerate(self.pieces):
            if piece.done or piece.utterance is not None:
                continue
            needed = number - 1 if self.generation.chaining else -1 if self.voice.anchored else 0
            if number == 0 or needed < 0 or self.pieces[needed].done:
                yield piece

    def running(self) -> list[Utterance]:
        return [piece.utterance for piece in self.pieces if piece.utterance is not None]

    def begin(self, piece: TextChunk, model: Llasa, hop: int) -> Utterance:
        """The next attempt at a piece. Raises InvalidInput if its prompt leaves no room to speak."""
        prompt = self._prompt(piece, model, hop)
        cap = min(self._room(prompt), self.generation.max_new_tokens or token_cap(piece.text))
        piece.prompt_tokens, piece.reference = len(prompt.ids), prompt.reference
        variant, sampling = self.voice.variant, self.generation.sampling
        return Utterance(prompt.ids, cap, sampling, piece.seed, variant=variant, prefix=prompt.prefix)

    def check_room(self, model: Llasa, hop: int) -> None:
        """Raise InvalidInput before anything runs if a piece cannot be spoken in max_length."""
        for piece in self.pieces:
            self._room(self._prompt(piece, model, hop))

    def _wanted_reference(self, piece: TextChunk, hop: int) -> Reference | None:
        """What a piece is to continue: the voice's clip, the piece before it, or the first piece."""
        number = self.pieces.index(piece)
        if number and (self.generation.chaining or not self.voice.anchored):
            before = self.pieces[number - 1 if self.generation.chaining else 0]
            if before.done and before.spoken:
                return Reference(before.text, before.spoken, len(before.spoken) * hop)
        return self.voice.reference

    def _prompt(self, piece: TextChunk, model: Llasa, hop: int) -> Prompted:
        reference = self._wanted_reference(piece, hop)
        ids = self._ids(piece, model, reference)
        # A long piece before this one may leave too little room: then only the voice's own clip is continued.
        if reference is not self.voice.reference and self.generation.max_length - len(ids) < token_cap(piece.text) // 2:
            reference = self.voice.reference
            ids = self._ids(piece, model, reference)
        return Prompted(ids, ids.index(model.vocabulary.text_start) + 1, reference)

    def _room(self, prompt: Prompted) -> int:
        taken, most = len(prompt.ids), self.generation.max_length
        if most - taken < _LEAST_ROOM:
            raise InvalidInput(
                f"text and reference clip take {taken} of {most} tokens; nothing is left for speech", param="input"
            )
        return most - taken

    def _ids(self, piece: TextChunk, model: Llasa, reference: Reference | None) -> list[int]:
        return prompt_ids(
            model.vocabulary,
            piece.text,
            reference.text if reference else None,
            model.vocabulary.known_codes(reference.codes) if reference else None,
            self.generation.system,
            self.generation.date,
            self.voice.assistant_prefix,
            self.voice.double_bos,
        )

    # --- what came out ---

    def harvest(self, model: Llasa, release: Callable[[Utterance], None]) -> None:
        """Finish the pieces whose attempt is over; an attempt that ran away is repeated if none of it was sent."""
        for number, piece in enumerate(self.pieces):
            utterance = piece.utterance
            if utterance is None or not (utterance.over or utterance.stuck):
                continue
            release(utterance)
            ran_away = not utterance.ended and not self.generation.max_new_tokens
            if ran_away and piece.attempt < self.generation.retries and not self._was_sent(number):
                piece.attempt += 1
                piece.utterance = None
                continue
            utterance.cut_repetition()
            piece.output_tokens = utterance.length
            piece.finish(utterance.codes(model.vocabulary), cut=not utterance.ended)

    def events(self, model: Llasa, codec: Codec) -> Iterator[Event]:
        """Audio that can be sent now, in order, and the end."""
        while self._at < len(self.pieces):
            piece = self.pieces[self._at]
            yield from self._streamed(piece, model, codec) if self.request.stream else self._whole(piece, codec)
            if not piece.done:
                return
            self._at, self._decoder = self._at + 1, None
        yield self._end()

    def _was_sent(self, number: int) -> bool:
        return number == self._at and self._decoder is not None and self._decoder.started

    def _whole(self, piece: TextChunk, codec: Codec) -> Iterator[Event]:
        if piece.done:
            with _Stopwatch(self.timings, "codec"):
                samples = decoded_whole(codec, piece.codes, piece.reference)
            yield AudioChunk(samples, codec.rate)

    def _streamed(self, piece: TextChunk, model: Llasa, codec: Codec) -> Iterator[Event]:
        if self._decoder is None:
            if piece.utterance is None and not piece.done:
                return  # it waits for a slot
            self._decoder = StreamDecoder(codec, piece.reference)
        if piece.utterance is not None and not self._decoder.wants(piece.utterance.code_count):
            return
        codes = piece.codes if piece.utterance is None else piece.utterance.codes(model.vocabulary)
        while True:
            with _Stopwatch(self.timings, "codec"):
                samples = self._decoder.next(codes, last=piece.done)
            if samples is None:
                return
            if len(samples):
                yield AudioChunk(samples, codec.rate)

    def _end(self) -> Done:
        cut = [number for number, piece in enumerate(self.pieces, start=1) if piece.cut]
        if cut:
            self.notes.append(
                f"speech was cut at the token limit in part {', '.join(map(str, cut))} of {len(self.pieces)}"
            )
        output = sum(piece.output_tokens for piece in self.pieces)
        usage = Usage(sum(piece.prompt_tokens for piece in self.pieces), output, output_audio_tokens=output)
        timings = {**self.timings, "inference": sum(self.timings.values())}
        reason = "length" if cut else "stop"
        # The worker's stderr is the gateway's log.
        print(
            f"spoke {output} codes in {timings['inference']:.2f} s: {_seconds(self.timings)}",
            file=sys.stderr,
            flush=True,
        )
        return Done(finish_reason=reason, usage=usage, seed=self.seed, timings=timings, notes=tuple(self.notes))  # type: ignore[arg-type]


def _seconds(timings: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in timings.items())


class _Stopwatch:
    """Adds the time of a block to one of the job's timings."""

    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] += time.perf_counter() - self._began
