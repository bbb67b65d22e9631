"""Recognition by the real pocketsphinx, on speech from the real espeak-ng."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from backends.embedded.pocketsphinx import PocketsphinxBackend
from backends.embedded.selftest import SENTENCES, WORDS_PER_MINUTE
from backends.interface import (
    ASR_SAMPLE_RATE,
    Done,
    Event,
    InvalidInput,
    ModelUnavailable,
    Placement,
    Progress,
    Samples,
    Segment,
    SpeechRequest,
    TextDelta,
    TranscriptionRequest,
)
from tests.backends.embedded.drive import at_asr_rate, events, loaded_espeak, loaded_pocketsphinx, model, spoken

FIRST = "Please open the front door before you leave."
SECOND = "I would like a cup of coffee with milk."


@pytest.fixture(scope="module")
def sphinx() -> PocketsphinxBackend:
    return loaded_pocketsphinx()


@pytest.fixture(scope="module")
def clips() -> dict[str, Samples]:
    """The sentences at the rate that is recognised best, kept so that every test hears the same audio."""
    espeak = loaded_espeak(words_per_minute=WORDS_PER_MINUTE)
    return {text: at_asr_rate(spoken(espeak, text)) for text in (FIRST, SECOND, "Yes.")}


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * ASR_SAMPLE_RATE), np.float32)


def transcribed(sphinx: PocketsphinxBackend, samples: Samples) -> list[Event]:
    return events(sphinx, TranscriptionRequest(samples))


def test_it_tells_what_it_can_do() -> None:
    told = PocketsphinxBackend().load(model(), Placement())
    assert (told.engine, told.languages, told.words, told.translation, told.logprobs) == (
        "pocketsphinx",
        ("en",),
        True,
        True,
        False,
    )
    assert "degraded" in str(told.detail["quality"])


def test_words_come_back_with_times_and_posteriors(sphinx: PocketsphinxBackend, clips: dict[str, Samples]) -> None:
    lead = 1.0
    found = transcribed(sphinx, np.concatenate([silence(lead), clips[FIRST], silence(1)]))
    segment = next(event for event in found if isinstance(event, Segment))
    wanted = FIRST.lower().rstrip(".").split()
    assert len(set(wanted) & set(segment.text.split())) >= len(wanted) // 2
    times = [time for word in segment.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert lead - 0.1 <= segment.start < segment.end <= lead + len(clips[FIRST]) / ASR_SAMPLE_RATE + 0.2
    assert all(0 < word.probability <= 1 for word in segment.words)
    assert segment.text == " " + " ".join(word.word for word in segment.words)


def test_the_numbers_of_a_segment_are_computed(sphinx: PocketsphinxBackend, clips: dict[str, Samples]) -> None:
    segment = next(event for event in transcribed(sphinx, clips[FIRST]) if isinstance(event, Segment))
    posteriors = [word.probability for word in segment.words]
    assert segment.avg_logprob == pytest.approx(sum(math.log(p) for p in posteriors) / len(posteriors))
    assert 0 <= segment.no_speech_prob < 0.5
    assert 0.5 < segment.compression_ratio < 1.5
    assert segment.tokens == ()


def test_deltas_joined_are_the_text_and_each_pause_ends_a_segment(
    sphinx: PocketsphinxBackend, clips: dict[str, Samples]
) -> None:
    found = transcribed(sphinx, np.concatenate([clips[FIRST], silence(1.5), clips[SECOND]]))
    done, segments = found[-1], [event for event in found if isinstance(event, Segment)]
    assert isinstance(done, Done)
    assert "".join(event.text for event in found if isinstance(event, TextDelta)) == done.text
    assert "".join(segment.text for segment in segments) == " " + done.text
    assert [segment.id for segment in segments] == [0, 1]
    assert segments[1].start > len(clips[FIRST]) / ASR_SAMPLE_RATE + 1
    assert segments[1].seek == pytest.approx(segments[1].start * 100, abs=40)
    assert done.language == "en"
    length = len(clips[FIRST]) + 1.5 * ASR_SAMPLE_RATE + len(clips[SECOND])
    assert done.usage.audio_seconds == pytest.approx(length / ASR_SAMPLE_RATE)


def test_an_answer_does_not_depend_on_the_request_before(
    sphinx: PocketsphinxBackend, clips: dict[str, Samples]
) -> None:
    """A decoder that keeps its cepstral mean answers differently the second time."""
    before = transcribed(sphinx, clips[FIRST])
    transcribed(sphinx, clips[SECOND] * np.float32(0.05))
    transcribed(sphinx, np.random.default_rng(3).standard_normal(32_000).astype(np.float32) * np.float32(0.3))
    after = transcribed(sphinx, clips[FIRST])
    assert [e for e in after if isinstance(e, Segment)] == [e for e in before if isinstance(e, Segment)]
    assert any(isinstance(event, Segment) for event in after)


def test_jobs_side_by_side_answer_as_if_alone(sphinx: PocketsphinxBackend, clips: dict[str, Samples]) -> None:
    requests = [
        TranscriptionRequest(clips[FIRST]),
        TranscriptionRequest(np.concatenate([clips[SECOND], silence(1), clips[FIRST]])),
    ]
    alone = [next(e.text for e in events(sphinx, request) if isinstance(e, Done)) for request in requests]
    jobs = [sphinx.start(request) for request in requests]
    texts: dict[int, str] = {}
    active = list(jobs)
    while active:
        for job, event in list(sphinx.step(active)):
            if isinstance(event, Done):
                texts[jobs.index(job)] = event.text
                active.remove(job)
    assert [texts[0], texts[1]] == alone


@pytest.mark.parametrize(
    "samples",
    [
        silence(0),
        silence(0.05),
        silence(3),
        np.random.default_rng(1).standard_normal(48_000).astype(np.float32) * np.float32(0.1),
        (0.3 * np.sin(2 * np.pi * 440 * np.arange(48_000) / ASR_SAMPLE_RATE)).astype(np.float32),
        np.eye(1, 48_000, 20_000, dtype=np.float32)[0],
    ],
    ids=["empty", "50 ms", "silence", "white noise", "tone", "click"],
)
def test_no_speech_gives_no_text(sphinx: PocketsphinxBackend, samples: Samples) -> None:
    found = transcribed(sphinx, samples)
    assert isinstance(found[-1], Done)
    assert found[-1].text == ""
    assert not [event for event in found if isinstance(event, Segment | TextDelta)]


@pytest.mark.parametrize("language", ["de", "ja", "pt-BR", "xx"])
def test_another_language_is_refused(sphinx: PocketsphinxBackend, language: str) -> None:
    with pytest.raises(InvalidInput, match=language) as caught:
        sphinx.start(TranscriptionRequest(silence(1), language=language))
    assert caught.value.param == "language"


@pytest.mark.parametrize("language", ["en", "EN", "en-US", None])
def test_english_is_accepted(sphinx: PocketsphinxBackend, language: str | None) -> None:
    assert isinstance(events(sphinx, TranscriptionRequest(silence(1), language=language))[-1], Done)


def test_translation_returns_the_english_text(sphinx: PocketsphinxBackend, clips: dict[str, Samples]) -> None:
    translated = events(sphinx, TranscriptionRequest(clips[SECOND], task="translate"))[-1]
    assert translated.text == transcribed(sphinx, clips[SECOND])[-1].text != ""  # type: ignore[union-attr]


def test_other_requests_are_refused(sphinx: PocketsphinxBackend) -> None:
    with pytest.raises(InvalidInput, match="speakers"):
        sphinx.start(TranscriptionRequest(silence(1), diarize=True))
    with pytest.raises(InvalidInput, match="transcribes only"):
        sphinx.start(SpeechRequest("hello", "en-us"))


def test_noise_is_added_to_synthetic_speech_and_admitted(
    sphinx: PocketsphinxBackend, clips: dict[str, Samples]
) -> None:
    done = transcribed(sphinx, clips[SECOND])[-1]
    assert isinstance(done, Done)
    assert any("noise 28 dB below" in note for note in done.notes)
    floor = np.random.default_rng(5).standard_normal(len(clips[SECOND])).astype(np.float32) * np.float32(0.002)
    recorded = transcribed(sphinx, clips[SECOND] + floor)[-1]
    assert isinstance(recorded, Done)
    assert not any("noise" in note for note in recorded.notes)


def test_a_long_recording_is_worked_off_in_short_steps(sphinx: PocketsphinxBackend, clips: dict[str, Samples]) -> None:
    """Two minutes, mostly without speech: each step looks at a bounded stretch, and progress is told."""
    samples = np.concatenate([silence(60), clips["Yes."], silence(60)])
    job = sphinx.start(TranscriptionRequest(samples))
    positions, over = [0], False
    while not over:
        for _, event in sphinx.step([job]):
            if isinstance(event, Progress):
                positions.append(event.done)
            over = isinstance(event, Done)
    assert (
        max(after - before for before, after in itertools.pairwise(positions)) <= 16
    )  # what was seen before, and one look of 8 s
    assert positions == sorted(positions)


def test_every_sentence_of_a_closed_list_comes_back_exactly() -> None:
    espeak = loaded_espeak(words_per_minute=WORDS_PER_MINUTE)
    sphinx = loaded_pocketsphinx(sentences=SENTENCES)
    recognized = [transcribed(sphinx, at_asr_rate(spoken(espeak, sentence)))[-1].text for sentence in SENTENCES]  # type: ignore[union-attr]
    assert recognized == list(SENTENCES)


@pytest.mark.parametrize("sentences", [("the zzyzxian gadget",), ("fine", "...")])
def test_a_closed_list_with_unknown_words_is_refused(sentences: tuple[str, ...]) -> None:
    with pytest.raises(ModelUnavailable, match="option sentences"):
        PocketsphinxBackend().load(model({"sentences": sentences}), Placement())


def test_the_longest_utterance_has_a_range() -> None:
    with pytest.raises(ModelUnavailable, match="longest_utterance"):
        PocketsphinxBackend().load(model({"longest_utterance": 0.5}), Placement())


def test_the_canary_reaches_the_decoder(sphinx: PocketsphinxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decode = sphinx._decoder.decode
    monkeypatch.setattr(sphinx._decoder, "decode", lambda samples: calls.append(len(samples)) or decode(samples))
    assert isinstance(events(sphinx, sphinx.canary())[-1], Done)
    assert len(calls) == 1
    assert sphinx.footprint() > 0


def test_a_failed_step_can_be_repeated(
    sphinx: PocketsphinxBackend, clips: dict[str, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker repeats a step that raised, so no utterance may be lost by it."""
    whole = transcribed(sphinx, clips[FIRST])[-1]
    job = sphinx.start(TranscriptionRequest(clips[FIRST]))
    with monkeypatch.context() as patch:
        patch.setattr(sphinx._decoder, "decode", lambda samples: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(sphinx.step([job]))
    found: list[Event] = []
    while not found or not isinstance(found[-1], Done):
        found.extend(event for _, event in sphinx.step([job]))
    assert found[-1].text == whole.text != ""  # type: ignore[union-attr]
