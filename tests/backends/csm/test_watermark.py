"""The mark: parity with silentcipher's own pipeline, recovery after streaming, cutting and resampling, and its
files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file

from backends.csm.watermark import Watermark, load_watermark
from backends.csm.watermark_model.key import installation_key, parse_key
from backends.csm.watermark_model.resample import StreamResampler, resample
from backends.csm.watermark_model.stream import WatermarkStream
from backends.interface import InvalidInput, ModelUnavailable
from tests.backends.csm.paths import KEY, MARK
from tests.support.waiting import LIMIT

SDR = 12.0


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of the package's own sizes, in the published form: pickled state dicts with `module.` names."""
    folder = tmp_path_factory.mktemp("silentcipher")
    hparams = yaml.safe_load((MARK / "hparams.yaml").read_text(encoding="utf-8")) | {"model_type": "44.1k"}
    (folder / "hparams.yaml").write_text(yaml.safe_dump(hparams), encoding="utf-8")
    from backends.csm.watermark_model.nets import _package

    torch.manual_seed(0)
    package = _package()
    nets = {
        name: {f"module.{key}": tensor.float() for key, tensor in load_file(MARK / f"{name}.safetensors").items()}
        for name in ("enc_c", "dec_c")
    }
    decoder = package.MsgDecoder(5, 64).state_dict()
    nets["dec_m_0"] = {f"module.{key}": tensor for key, tensor in decoder.items()}
    for name, state in nets.items():
        torch.save(state, folder / f"{name}.ckpt")
    return folder


def package() -> ModuleType:
    import silentcipher

    module: ModuleType = silentcipher
    return module


def speech(seconds: float, rate: int = 44_100, seed: int = 0) -> np.ndarray:
    """Noise under a moving envelope."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return (0.2 * generator.standard_normal(len(time)) * (1.2 + np.sin(9 * time))).astype(np.float32)


@pytest.mark.filterwarnings("ignore")  # the package's audio readers warn about missing programs when imported
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_equals_the_package(pickled: Path, statistics: str) -> None:
    pytest.importorskip("silentcipher")
    oracle = package().get_model("44.1k", ckpt_path=str(pickled), config_path=str(pickled / "hparams.yaml"))
    if statistics == "running":
        oracle.enc_c.eval(), oracle.dec_c.eval(), oracle.dec_m[0].eval()
    mark = load_watermark(pickled, statistics)  # type: ignore[arg-type]
    y = speech(0.7)
    expected, _ = oracle.encode_wav(y.copy(), 44_100, list(KEY), message_sdr=36, calc_sdr=False)
    assert np.abs(expected - y).max() > 1e-4
    for _ in range(2):  # a call leaves no trace in the statistics
        assert np.allclose(mark.encode(y, 44_100, KEY, 36), expected, atol=2e-6)
    expected_mark = oracle.decode_wav(y.copy(), 44_100, False)
    found = mark.detect(y, 44_100, search=False)
    assert (found.status == "found") == expected_mark["status"]
    if expected_mark["status"]:
        assert list(found.message) == expected_mark["messages"][0]
        assert found.confidence == pytest.approx(expected_mark["confidences"][0], abs=1e-6)


@pytest.fixture(scope="module")
def mark() -> Watermark:
    return load_watermark(MARK, "batch")


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_the_message_is_found_again(mark: Watermark, rate: int) -> None:
    y = speech(1.0, rate)
    marked = mark.encode(y, rate, KEY, SDR)
    assert marked.shape == y.shape
    assert marked.dtype == np.float32
    found = mark.detect(marked, rate)
    assert (found.status, found.message) == ("found", KEY)
    assert found.confidence > 0.6
    assert mark.detect(y, rate).message != KEY


def test_the_message_is_found_after_a_cut(mark: Watermark) -> None:
    marked = mark.encode(speech(1.0), 44_100, KEY, SDR)
    assert mark.detect(marked[3070:], 44_100).message == KEY


@pytest.mark.parametrize("patient", [False, True])
def test_a_stream_carries_one_mark(mark: Watermark, patient: bool) -> None:
    y = speech(1.5, 24_000)
    stream = WatermarkStream(mark, 24_000, KEY, SDR, patient=patient)
    pieces = [stream.push(part) for part in np.array_split(y, 23)] + [stream.push(y[:0], last=True)]
    marked = np.concatenate(pieces)
    assert marked.shape == y.shape
    found = mark.detect(marked, 24_000)
    assert (found.status, found.message) == ("found", KEY)
    if patient:
        assert np.allclose(marked, mark.encode(y, 24_000, KEY, SDR), atol=1e-5)
    else:
        assert len(pieces[2]) > 0, "the first piece came late"


def test_short_audio_is_too_short_and_silence_has_no_mark(mark: Watermark) -> None:
    assert mark.detect(speech(0.04), 44_100).status == "too short"
    assert mark.detect(np.zeros(44_100, np.float32), 44_100).status == "not found"
    silence = np.zeros(5000, np.float32)
    assert np.array_equal(mark.encode(silence, 24_000, KEY), silence)
    assert mark.encode(speech(0.001), 44_100, KEY).shape == (44,)
    assert len(mark.encode(silence[:0], 24_000, KEY)) == 0
    with pytest.raises(InvalidInput, match="has 5 bytes"):
        mark.encode(speech(0.1), 44_100, (1, 2))


def test_resampling_is_the_published_filter() -> None:
    """Against the formula written out, at one output phase; and in pieces as in one."""
    y = speech(0.3, 24_000)
    up = resample(y, 24_000, 44_100)
    assert len(up) == int(np.ceil(147 * len(y) / 80))
    base, at, phase = 80 * 0.99, 30, 5
    width = int(np.ceil(6 * 80 / base))
    index = np.arange(-width, width + 80)
    t = np.clip(base * (index / 80 - phase / 147), -6, 6)
    taps = base / 80 * np.sinc(t) * np.cos(np.pi * t / 12) ** 2
    expected = taps @ y[at * 80 - width : at * 80 + width + 80]
    assert up[at * 147 + phase] == pytest.approx(expected, abs=1e-5)
    assert len(resample(resample(y[:4000], 24_000, 44_100), 44_100, 24_000)) >= 4000
    pieces = StreamResampler(24_000, 44_100)
    parts = [pieces.push(part) for part in np.array_split(y, 31)] + [pieces.push(y[:0], last=True)]
    assert np.allclose(np.concatenate(parts), up, atol=1e-6)


def test_pickles_that_run_code_are_refused(tmp_path: Path, pickled: Path) -> None:
    shutil.copytree(pickled, tmp_path / "m")
    torch.save({"x": os.path.join}, tmp_path / "m" / "enc_c.ckpt")
    with pytest.raises(ModelUnavailable, match=r"enc_c\.ckpt is not a plain state dict"):
        load_watermark(tmp_path / "m")


def test_missing_files_and_wrong_tensors_are_named(tmp_path: Path, pickled: Path) -> None:
    with pytest.raises(ModelUnavailable, match="watermark = false"):
        load_watermark(tmp_path)
    shutil.copytree(pickled, tmp_path / "44_1_khz" / "73999_iteration")
    load_watermark(tmp_path)
    (tmp_path / "44_1_khz" / "73999_iteration" / "dec_c.ckpt").unlink()
    with pytest.raises(ModelUnavailable, match=r"lacks dec_c\.ckpt"):
        load_watermark(tmp_path)
    state = torch.load(pickled / "dec_m_0.ckpt", weights_only=True)
    torch.save(state, tmp_path / "44_1_khz" / "73999_iteration" / "dec_c.ckpt")
    with pytest.raises(ModelUnavailable, match="dec_c"):
        load_watermark(tmp_path)


def test_the_key_is_private_and_stays(tmp_path: Path) -> None:
    key = installation_key(tmp_path / "user")
    assert len(key) == 5
    assert installation_key(tmp_path / "user") == key
    assert installation_key(tmp_path / "other") != key
    if sys.platform != "win32":
        assert (tmp_path / "user" / "watermark.key").stat().st_mode & 0o077 == 0
    (tmp_path / "ansi").mkdir()
    (tmp_path / "ansi" / "watermark.key").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelUnavailable, match=r"watermark\.key cannot be read"):
        installation_key(tmp_path / "ansi")
    assert parse_key("01020304ff") == (1, 2, 3, 4, 255)
    for wrong in ("", "zz", "0102"):
        with pytest.raises(ModelUnavailable, match="ten hex digits"):
            parse_key(wrong)


def test_a_second_worker_waits_for_the_key_that_the_first_is_writing(tmp_path: Path) -> None:
    """The file exists, and is still empty, at the moment the second one looks."""
    file = tmp_path / "watermark.key"
    file.touch()
    writer = threading.Timer(0.2, file.write_text, ["0102030405\n"])
    writer.start()
    assert installation_key(tmp_path) == (1, 2, 3, 4, 5)
    writer.join()


@pytest.mark.slow
def test_the_detector_process(tmp_path: Path, mark: Watermark) -> None:
    key = installation_key(tmp_path)
    soundfile.write(tmp_path / "a.wav", mark.encode(speech(0.8), 44_100, key, SDR), 44_100)
    command = [
        sys.executable,
        "-m",
        "backends.csm.watermark_model.detect",
        "--model",
        str(MARK),
        "--user-dir",
        str(tmp_path),
    ]
    run = subprocess.run([*command, str(tmp_path / "a.wav")], capture_output=True, text=True, timeout=LIMIT, check=True)
    found = json.loads(run.stdout)
    assert (found["status"], tuple(found["message"]), found["ours"]) == ("found", key, True)
    np.save(tmp_path / "short.npy", speech(0.02))
    run = subprocess.run(
        [*command, str(tmp_path / "short.npy"), "--rate", "44100"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert json.loads(run.stdout)["status"] == "too short"
    (tmp_path / "no.wav").write_bytes(b"nothing")
    run = subprocess.run(
        [*command, str(tmp_path / "no.wav")], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert run.returncode == 1
    assert json.loads(run.stdout)["kind"] == "invalid_input"
