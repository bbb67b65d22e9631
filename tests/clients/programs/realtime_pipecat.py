"""pipecat's realtime speech recognition in a pipeline, turns found by the server, then by the client: URL WAV."""

import asyncio
import sys
import wave

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import WorkerRunner
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService

STEP = 4800  # bytes: 100 ms at 24 kHz


class Sink(FrameProcessor):
    """Keeps the frames that leave the service, and tells of each transcription."""

    def __init__(self):
        super().__init__()
        self.seen, self.transcripts = [], asyncio.Queue()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        self.seen.append(frame)
        if isinstance(frame, TranscriptionFrame):
            self.transcripts.put_nowait(frame.text)
        await self.push_frame(frame, direction)

    def kinds(self):
        return {type(frame) for frame in self.seen}


async def converse(url, pcm, *, server_turns):
    model, turns = ("gpt-transcribe", {"type": "server_vad"}) if server_turns else ("gpt-realtime-whisper", False)
    service = OpenAIRealtimeSTTService(
        api_key="any",
        base_url=url.replace("http", "ws", 1) + "/v1/realtime",
        turn_detection=turns,
        settings=OpenAIRealtimeSTTService.Settings(model=model, noise_reduction="near_field"),
    )
    sink, failed = Sink(), []
    service.add_event_handler("on_error", lambda *given: failed.append(given))
    worker = PipelineWorker(
        Pipeline([service, sink]),
        params=PipelineParams(audio_in_sample_rate=24_000),
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
    )
    begun = asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: begun.set())
    worker.add_event_handler("on_pipeline_error", lambda _, frame: failed.append(frame))

    async def talk():
        await asyncio.wait_for(begun.wait(), 60)
        while not service._session_ready:  # noqa: ASYNC110 (it has no event for that)
            await asyncio.sleep(0.01)
        for _ in range(2):
            if not server_turns:
                await worker.queue_frame(VADUserStartedSpeakingFrame())
            for start in range(0, len(pcm), STEP):
                frame = InputAudioRawFrame(pcm[start : start + STEP], sample_rate=24_000, num_channels=1)
                await worker.queue_frame(frame)
            if not server_turns:
                await worker.queue_frame(VADUserStoppedSpeakingFrame())
            print(await asyncio.wait_for(sink.transcripts.get(), 60))
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), talk())
    assert not failed, failed
    assert ErrorFrame not in sink.kinds()
    assert InterimTranscriptionFrame in sink.kinds()
    proposed = {ProposedUserStartedSpeakingFrame, ProposedUserStoppedSpeakingFrame}
    assert not server_turns or proposed <= sink.kinds()


with wave.open(sys.argv[2]) as file:
    sound = file.readframes(file.getnframes())
for by_server in (True, False):
    asyncio.run(converse(sys.argv[1], sound, server_turns=by_server))
print("OK")
