"""Published Whispers out of the weight packages `ears`: real speech, and the tokens of openai-whisper and
faster-whisper on the same recordings.

Skipped, with the reason, where a package is not installed.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import av
import numpy as np
import pytest
import soxr

from backends.model_sets import MODEL_SETS, Located, Variant, locate, problems
from backends.whisper.checkpoint import Checkpoint, expected_shapes
from backends.whisper.config import read_dims
from backends.whisper.engine import Whisper, load_whisper
from tests.backends.whisper.reference import OpenaiWhisper
from tests.backends.whisper.spoken import error_rate

pytestmark = [pytest.mark.real_weights, pytest.mark.slow]
NAMES = tuple(name for name in MODEL_SETS if name.startswith("whisper"))


def located(name: str, folder: Path) -> Located:
    if wrong := problems(MODEL_SETS[name], folder):
        pytest.skip(wrong[0])
    return locate(MODEL_SETS[name], folder)


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    return load_whisper(located(request.param, tmp_path_factory.mktemp(request.param)).folder, dtype="int8")


def read_audio(path: Path) -> np.ndarray:
    """A file as float32 [time] at 16 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


def words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


@pytest.fixture(scope="module")
def english() -> np.ndarray:
    """A woman's voice over a film's noises, 7.9 s."""
    return film_voice("cate_blanch.mp3")


def film_voice(name: str) -> np.ndarray:
    """One of the clips that the extra `ui` brings along."""
    spec = importlib.util.find_spec("gradio")
    if spec is None or spec.origin is None:
        pytest.skip("the clip is part of gradio, which is not installed")
    return read_audio(Path(spec.origin).parent / "media_assets" / "audio" / name)


# As faster-whisper hears it with the weights of base.
ENGLISH = "I sleep with the dagger. If you so much as move to touch me, I will sever your manhood. You understand?"
# By vocabulary: tiny.en mishears "sever your manhood" under the noise, six words of 21; that it is the model and not
# the engine is what the comparison of tokens shows.
MOST_ERRORS = {51_865: 0.1, 51_864: 0.3}
NOISE = "i will"  # begins the phrase that tiny.en makes something else of in int8, by the products of the processor
JAPANESE = "昨日は友達と映画を見に行きました。とても面白かったです。"


def test_real_english_speech_is_understood(model: Whisper, english: np.ndarray) -> None:
    transcript = model.transcribe(english, word_timestamps=True)
    assert transcript.language == "en"
    most, said, recognized = MOST_ERRORS[model.dims.vocabulary], words(ENGLISH), words(transcript.text)
    if not model.special.multilingual:
        said, recognized = said.partition(NOISE)[0], recognized.partition(NOISE)[0]
    assert error_rate(said, recognized) <= most
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)
    assert 0 <= starts[0] < 2
    assert transcript.words[-1].end <= 8


def test_in_float32_the_phrase_under_the_noise_costs_no_more_words(
    english: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = located("whisper-tiny.en", tmp_path_factory.mktemp("tiny")).folder
    model = load_whisper(folder, dtype="float32")
    recognized = words(model.transcribe(english, word_timestamps=True).text)
    assert error_rate(words(ENGLISH), recognized) <= MOST_ERRORS[model.dims.vocabulary]


def test_english_only_and_multilingual_models_are_told_apart(model: Whisper) -> None:
    assert (len(model.special.languages), model.dims.vocabulary) in ((99, 51_865), (0, 51_864))
    assert model.special.first_timestamp == model.dims.vocabulary - 1501


def spoken_japanese() -> np.ndarray:
    speech = pytest.importorskip(
        "pyopenjtalk", reason="the Japanese voice is part of pyopenjtalk-plus, which is not installed"
    )
    samples, rate = speech.tts(JAPANESE)
    sound: np.ndarray = soxr.resample((samples / 32_768).astype(np.float32), rate, 16_000)
    return sound


def test_japanese_speech_is_understood(tmp_path: Path) -> None:
    model = load_whisper(located("whisper-base", tmp_path).folder, dtype="int8")
    transcript = model.transcribe(spoken_japanese())
    assert transcript.language == "ja"
    said, recognized = (re.sub(r"[。、 ]", "", text) for text in (JAPANESE, transcript.text))
    assert error_rate(" ".join(said), " ".join(recognized)) <= 0.15


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_faster_whisper_on_the_same_file(english: np.ndarray, tmp_path: Path, name: str) -> None:
    """A whole window of sound: shorter ones the two fill up in different ways."""
    peer = pytest.importorskip("faster_whisper", reason="faster-whisper would bring a second onnxruntime to Windows")
    folder = located(name, tmp_path / "ours").folder
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    checkpoint = Checkpoint(folder)
    (theirs / "model.bin").write_bytes(b"".join(path.read_bytes() for path in checkpoint.files))
    for file in ("config.json", "tokenizer.json"):
        (theirs / file).write_bytes((folder / file).read_bytes())
    vocabulary = sorted(load_vocabulary(folder).items(), key=lambda item: item[1])
    text = "\n".join(token for token, _ in vocabulary) + "\n"
    (theirs / "vocabulary.txt").write_text(text, encoding="utf-8", newline="\n")
    window = np.tile(english, 4)[: 30 * 16_000]
    oracle = peer.WhisperModel(str(theirs), device="cpu", compute_type="float32", cpu_threads=1)
    segments, _ = oracle.transcribe(
        window, language="en", temperature=0, beam_size=1, without_timestamps=True, condition_on_previous_text=False
    )
    wanted = [token for segment in segments for token in segment.tokens]
    ours = load_whisper(folder, dtype="float32").greedy_tokens(window, "en")
    assert len(wanted) > 50
    assert ours == wanted


@pytest.mark.parametrize("clip", ["cate_blanch.mp3", "cate_blanch_2.mp3", "heath_ledger.mp3", "Japanese"])
def test_tokens_are_those_of_openai_whisper_on_a_recording_of_one_window(tmp_path: Path, clip: str) -> None:
    """Its own spectrogram: every window here ends in what neither recorded, and both fill it up alike."""
    folder = located("whisper-base", tmp_path).folder
    ours = load_whisper(folder)
    samples, language = (spoken_japanese(), "ja") if clip == "Japanese" else (film_voice(clip), "en")
    theirs = OpenaiWhisper(ours, folder).transcribe(samples, language, own_spectrogram=True)
    found = ours.transcribe(samples, language, vad=False).segments
    assert found
    assert [list(segment.tokens) for segment in found] == [segment["tokens"] for segment in theirs]
    for mine, other in zip(found, theirs, strict=True):
        assert mine.avg_logprob == pytest.approx(other["avg_logprob"], abs=1e-3)
        assert mine.start == pytest.approx(other["start"], abs=1e-3)
        assert mine.end == pytest.approx(min(other["end"], len(samples) / 16_000), abs=1e-3), "but not past the end"


def load_vocabulary(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    vocabulary: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    timestamps = {f"<|{index * 0.02:.2f}|>": len(vocabulary) + index for index in range(1501)}
    return vocabulary | timestamps


def test_both_makers_published_the_same_numbers(tmp_path: Path) -> None:
    known = MODEL_SETS["whisper-base"]
    checkpoints = [Checkpoint(_of(known.variants[index], tmp_path / str(index))) for index in range(2)]
    names = [*expected_shapes(read_dims(checkpoints[0].folder)), "encoder.embed_positions.weight"]
    assert len(names) > 240
    for name in names:
        assert np.array_equal(checkpoints[0][name], checkpoints[1][name]), name


def _of(variant: Variant, folder: Path) -> Path:
    """A folder with one maker's files, or the reason why not."""
    from dataclasses import replace

    known = replace(MODEL_SETS["whisper-base"], variants=(variant,))
    if wrong := problems(known, folder):
        pytest.skip(wrong[0])
    return locate(known, folder).folder
