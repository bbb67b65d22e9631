"""What could not be read of an upload reaches the client, the log and the metrics."""

from __future__ import annotations

import base64

import httpx
import pytest
from structlog.testing import capture_logs

from app.config.settings import LimitSettings
from app.media.fair import FairMediaPool
from app.media.pool import MediaPool
from tests.support.audio import by_soundfile, tone
from tests.support.server import running

WAV = by_soundfile(tone(16_000, 8.0), 16_000, "WAV", "PCM_16")
CUT = WAV[: 44 + 32_000 * 6]  # more than travels without a file
NOTE = "The file is damaged or incomplete: 6.0 s were read, the file says 8.0 s."


@pytest.mark.parametrize("fair", [False, True])
async def test_the_pool_tells_and_logs(fair: bool) -> None:
    limits = LimitSettings.model_validate({})
    pool = FairMediaPool(limits, fair=True, workers=1) if fair else MediaPool(limits, workers=1)
    await pool.start()
    try:
        with capture_logs() as logs:
            for data in (WAV, CUT, CUT[: 44 + 32_000]):
                with await pool.decode(data, rate=16_000) as decoded:
                    assert decoded.note == ("" if data is WAV else NOTE.replace("6.0", f"{len(data) // 32_000}.0"))
    finally:
        await pool.close()
    assert [line["note"] for line in logs if line["event"] == "media.damaged"] == [NOTE, NOTE.replace("6.0", "1.0")]


def test_the_answer_says_so_and_it_is_counted() -> None:
    headers = {"api-key": "k"}
    with running() as server:
        path = f"{server.url}/v1/audio/transcriptions"
        answers = [
            httpx.post(path, headers=headers, data={"model": "fake-asr"}, files={"file": data}, timeout=60)
            for data in (WAV, CUT)
        ]
        sound = {"data": base64.b64encode(CUT).decode(), "format": "wav"}
        question = [{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}]
        body = {"model": "fake-chat", "messages": question}
        answers.append(httpx.post(f"{server.url}/v1/chat/completions", headers=headers, json=body, timeout=60))
        counted = server.gateway.metrics.registry.get_sample_value("gateway_damaged_audio_total")
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.headers.get("x-gateway-note") for answer in answers] == [None, NOTE, NOTE]
    assert counted == 2
