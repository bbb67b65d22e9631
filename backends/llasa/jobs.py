"""One speech request in progress: its text chunks, which of them may run, what they continue, and what was sent.

Knows the model only through prompts and ids, and the codec through decoders; slots are the backend's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from backends.interface import AudioChunk, Done, Event, InvalidInput, SpeechRequest, Usage
from backends.llasa.chunking import ChunkPrompt, TextChunk, chunk_seed, token_cap
from backends.llasa.codec import Codec
from backends.llasa.generation_state import Utterance
from backends.llasa.model import Llasa
from backends.llasa.options import GenerationOptions
from backends.llasa.prompts import prompt_ids
from backends.llasa.streaming import StreamDecoder, decode_whole
from backends.llasa.voices import Clip, Reference, SpeakingVoice

_LEAST_ANSWER = 32  # tokens that must be left for an answer


class SpeechJob:
    """texts: of the chunks; notes: for the client; timings: seconds, "encode" until the clip had its codes."""

    def __init__(
        self, request: SpeechRequest, voice: SpeakingVoice, generation: GenerationOptions, texts: list[str], seed: int
    ) -> None:
        self.request, self.voice, self.generation, self.seed = request, voice, generation, seed
        self.chunks = [TextChunk(text, chunk_seed(seed, number)) for number, text in enumerate(texts)]
        self.notes: list[str] = []
        self.timings = {"encode": 0.0, "generate": 0.0, "codec": 0.0}
        self._began = time.perf_counter()
        self._current = 0  # index of the chunk whose audio is being sent
        self._decoder: StreamDecoder | None = None

    # --- voice ---

    @property
    def clip(self) -> Clip | None:
        """The reference clip that has to be encoded before anything can run."""
        return self.voice.clip

    def use_voice(self, voice: SpeakingVoice, model: Llasa, hop: int) -> None:
        """Set the voice, whose clip now has its codes. Raises InvalidInput if they leave no room for speech."""
        self.voice = voice
        self.timings["encode"] = time.perf_counter() - self._began
        self.check_length(model, hop)

    # --- running ---

    def startable(self) -> Iterator[TextChunk]:
        """Chunks that wait for nothing but a slot. If the voice has no speaker, all continue the first chunk."""
        for number, chunk in enumerate(self.chunks):
            if chunk.done or chunk.utterance is not None:
                continue
            previous = number - 1 if self.generation.chaining else -1 if self.voice.anchored else 0
            if number == 0 or previous < 0 or self.chunks[previous].done:
                yield chunk

    def running(self) -> list[Utterance]:
        return [chunk.utterance for chunk in self.chunks if chunk.utterance is not None]

    def begin(self, chunk: TextChunk, model: Llasa, hop: int) -> Utterance:
        """The next attempt at a chunk. Raises InvalidInput if its prompt leaves no room to speak."""
        prompt = self._prompt(chunk, model, hop)
        cap = min(self._tokens_left(prompt), self.generation.max_new_tokens or token_cap(chunk.text))
        chunk.prompt_tokens, chunk.reference = len(prompt.ids), prompt.reference
        variant, sampling = self.voice.variant, self.generation.sampling
        return Utterance(prompt.ids, cap, sampling, chunk.seed, variant=variant, prefix=prompt.prefix)

    def check_length(self, model: Llasa, hop: int) -> None:
        """Raise InvalidInput before anything runs if a chunk cannot be spoken in max_length."""
        for chunk in self.chunks:
            self._tokens_left(self._prompt(chunk, model, hop))

    def _reference(self, chunk: TextChunk, hop: int) -> Reference | None:
        """What a chunk continues: the voice's clip, the chunk before it, or the first chunk."""
        number = self.chunks.index(chunk)
        if number and (self.generation.chaining or not self.voice.anchored):
            before = self.chunks[number - 1 if self.generation.chaining else 0]
            if before.done and before.spoken:
                return Reference(before.text, before.spoken, len(before.spoken) * hop)
        return self.voice.reference

    def _prompt(self, chunk: TextChunk, model: Llasa, hop: int) -> ChunkPrompt:
        reference = self._reference(chunk, hop)
        ids = self._ids(chunk, model, reference)
        # A long chunk before this one may leave too little room: then only the voice's own clip is continued.
        if reference is not self.voice.reference and self.generation.max_length - len(ids) < token_cap(chunk.text) // 2:
            reference = self.voice.reference
            ids = self._ids(chunk, model, reference)
        return ChunkPrompt(ids, ids.index(model.vocabulary.text_start) + 1, reference)

    def _tokens_left(self, prompt: ChunkPrompt) -> int:
        """Tokens left for the answer. Raises InvalidInput if they are too few for any speech."""
        used, limit = len(prompt.ids), self.generation.max_length
        if limit - used < _LEAST_ANSWER:
            raise InvalidInput(
                f"text and reference clip take {used} of {limit} tokens; nothing is left for speech", param="input"
            )
        return limit - used

    def _ids(self, chunk: TextChunk, model: Llasa, reference: Reference | None) -> list[int]:
        return prompt_ids(
            model.vocabulary,
            chunk.text,
            reference.text if reference else None,
            model.vocabulary.known_codes(reference.codes) if reference else None,
            self.generation.system,
            self.generation.date,
            self.voice.assistant_prefix,
            self.voice.double_bos,
        )

    # --- output ---

    def harvest(self, model: Llasa, release: Callable[[Utterance], None]) -> None:
        """Finish the chunks whose attempt is over; one that did not stop is repeated if none of it was sent."""
        for number, chunk in enumerate(self.chunks):
            utterance = chunk.utterance
            if utterance is None or not (utterance.over or utterance.stuck):
                continue
            release(utterance)
            unstopped = not utterance.ended and not self.generation.max_new_tokens
            if unstopped and chunk.attempt < self.generation.retries and not self._was_sent(number):
                chunk.attempt += 1
                chunk.utterance = None
                continue
            utterance.cut_repetition()
            chunk.output_tokens = utterance.length
            chunk.finish(utterance.codes(model.vocabulary), cut=not utterance.ended)

    def events(self, model: Llasa, codec: Codec) -> Iterator[Event]:
        """The audio that can be sent now, in order, and Done after the last chunk."""
        while self._current < len(self.chunks):
            chunk = self.chunks[self._current]
            yield from self._streamed(chunk, model, codec) if self.request.stream else self._whole(chunk, codec)
            if not chunk.done:
                return
            self._current, self._decoder = self._current + 1, None
        yield self._end()

    def _was_sent(self, number: int) -> bool:
        return number == self._current and self._decoder is not None and self._decoder.started

    def _whole(self, chunk: TextChunk, codec: Codec) -> Iterator[Event]:
        if chunk.done:
            with _Stopwatch(self.timings, "codec"):
                samples = decode_whole(codec, chunk.codes, chunk.reference)
            yield AudioChunk(samples, codec.rate)

    def _streamed(self, chunk: TextChunk, model: Llasa, codec: Codec) -> Iterator[Event]:
        if self._decoder is None:
            if chunk.utterance is None and not chunk.done:
                return  # it waits for a slot
            self._decoder = StreamDecoder(codec, chunk.reference)
        if chunk.utterance is not None and not self._decoder.has_next(chunk.utterance.code_count):
            return
        codes = chunk.codes if chunk.utterance is None else chunk.utterance.codes(model.vocabulary)
        while True:
            with _Stopwatch(self.timings, "codec"):
                samples = self._decoder.next(codes, last=chunk.done)
            if samples is None:
                return
            if len(samples):
                yield AudioChunk(samples, codec.rate)

    def _end(self) -> Done:
        cut = [number for number, chunk in enumerate(self.chunks, start=1) if chunk.cut]
        if cut:
            self.notes.append(
                f"speech was cut at the token limit in part {', '.join(map(str, cut))} of {len(self.chunks)}"
            )
        output = sum(chunk.output_tokens for chunk in self.chunks)
        usage = Usage(sum(chunk.prompt_tokens for chunk in self.chunks), output, output_audio_tokens=output)
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
