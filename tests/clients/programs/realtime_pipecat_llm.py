"""pipecat's realtime service in a pipeline, in text and in audio: a written turn, then a spoken one: URL WAV."""

import asyncio
import sys
import wave

from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import WorkerRunner
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

STEP = 4800  # bytes: 100 ms at 24 kHz


class Sink(FrameProcessor):
    """Keeps the frames that pass, and tells of the end of each answer."""

    def __init__(self):
        super().__init__()
        self.seen, self.answers = [], asyncio.Queue()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        self.seen.append(frame)
        if isinstance(frame, LLMFullResponseEndFrame):
            self.answers.put_nowait(frame)
        await self.push_frame(frame, direction)

    def of(self, kind):
        return [frame for frame in self.seen if isinstance(frame, kind)]


async def converse(url, pcm, modality):
    audio = events.AudioConfiguration(
        input=events.AudioInput(
            transcription=events.InputAudioTranscription(model="whisper-1"), turn_detection=events.TurnDetection()
        )
    )
    service = OpenAIRealtimeLLMService(
        api_key="any",
        base_url=url.replace("http", "ws", 1) + "/v1/realtime",
        settings=OpenAIRealtimeLLMService.Settings(
            model="gpt-realtime",
            system_instruction="Be nice.",
            session_properties=events.SessionProperties(output_modalities=[modality], audio=audio),
        ),
    )
    before, after, failed = Sink(), Sink(), []
    worker = PipelineWorker(
        Pipeline([before, service, after]),
        params=PipelineParams(audio_in_sample_rate=24_000, audio_out_sample_rate=24_000),
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
    )
    begun = asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: begun.set())
    worker.add_event_handler("on_pipeline_error", lambda _, frame: failed.append(frame))

    def answer():
        return "".join(frame.text for frame in after.of(LLMTextFrame)), len(after.of(TTSAudioRawFrame))

    async def talk():
        await asyncio.wait_for(begun.wait(), 60)
        context = LLMContext([{"role": "user", "content": "Good morning."}])
        await worker.queue_frame(LLMContextFrame(context))
        answers = []
        for turn in range(2):
            for start in range(0, len(pcm) if turn else 0, STEP):
                frame = InputAudioRawFrame(pcm[start : start + STEP], sample_rate=24_000, num_channels=1)
                await worker.queue_frame(frame)
            await asyncio.wait_for(after.answers.get(), 60)
            answers.append(answer())
            after.seen.clear()
        await worker.queue_frame(EndFrame())
        return answers

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    _, answers = await asyncio.gather(runner.run(), talk())
    words = [frame.text for frame in before.of(TranscriptionFrame)]
    print(modality, answers, words)
    assert not failed, failed
    for text, pieces in answers:
        assert text
        assert (pieces > 0) == (modality == "audio")
    assert all(words)
    assert len(words) == 1
    assert before.of(ProposedUserStartedSpeakingFrame)
    assert before.of(ProposedUserStoppedSpeakingFrame)


with wave.open(sys.argv[2]) as file:
    sound = file.readframes(file.getnframes())
for wanted in ("text", "audio"):
    asyncio.run(asyncio.wait_for(converse(sys.argv[1], sound, wanted), 120))
print("OK")
