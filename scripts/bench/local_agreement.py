"""LocalAgreement-2 on faster-whisper at real-time pace: `python local_agreement.py WEIGHTS SAMPLES`, JSON on stdout.

A peer of `bench_realtime`, for an interpreter that has faster-whisper and needs nothing of this project: each second
the whole buffer is decoded with word times, and what two decodes agree on is told; the buffer is cut behind told words
once it is longer than 15 s. SAMPLES: float32 at 16 kHz.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

RATE = 16_000
CHUNK_SECONDS = 1.0
LONGEST_SECONDS = 15.0
Words = list[tuple[str, float]]


def main(weights: str, samples: str) -> None:
    from faster_whisper import WhisperModel

    model = WhisperModel(weights, device="cpu", compute_type="int8", cpu_threads=2)
    audio = np.fromfile(samples, np.float32)
    told: Words = []
    before: Words = []
    delays: list[float] = []
    start, upto = 0.0, 0.0
    began, spent = time.perf_counter(), time.process_time()
    while upto < len(audio) / RATE:
        wanted = min(len(audio) / RATE, upto + CHUNK_SECONDS)
        time.sleep(max(0.0, began + wanted - time.perf_counter()))
        upto = min(len(audio) / RATE, time.perf_counter() - began)
        piece = audio[int(start * RATE) : int(upto * RATE)]
        segments, _ = model.transcribe(piece, language="en", beam_size=1, word_timestamps=True, vad_filter=True)
        words = [(word.word.strip(), word.end + start) for segment in segments for word in segment.words or ()]
        new = [word for word in words if not told or word[1] > told[-1][1] + 0.05]
        agreed = 0
        while agreed < min(len(new), len(before)) and new[agreed][0] == before[agreed][0]:
            agreed += 1
        now = time.perf_counter() - began
        delays += [now - end for _, end in new[:agreed]]
        told += new[:agreed]
        before = new[agreed:]
        if upto - start > LONGEST_SECONDS:
            start = max(told[-1][1] if told else 0.0, upto - LONGEST_SECONDS)
    cpu = (time.process_time() - spent) / (len(audio) / RATE)
    print(json.dumps({"cpu": cpu, "delays": delays, "text": " ".join(word for word, _ in told)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
