"""Train a miniature SilentCipher for the tests: real encoding and real detection, half a megabyte.

Run once; the result lies in tests/data/csm/silentcipher_tiny. The published networks hide a far weaker mark in far more
bins; this one carries its message at 12 dB below noise and voices, in 64 bins of a 256-point spectrum.

    python scripts/train_tiny_watermark.py tests/data/csm/silentcipher_tiny --steps 300
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from backends.csm.watermark_nets import _package

HPARAMS = {
    "SR": 44100,
    "N_FFT": 256,
    "HOP_LENGTH": 128,
    "message_band_size": 64,
    "message_dim": 5,
    "message_len": 21,
    "n_messages": 1,
    "message_sdr": 12,
    "ensure_negative_message": True,
    "ensure_constrained_message": False,
    "frame_level_normalization": False,
    "utterance_level_normalization": True,
    "no_normalization": False,
    "enc_n_layers": 2,
    "dec_c_n_layers": 2,
}
FFT, HOP, BAND, PERIOD, KINDS = 256, 128, 64, 21, 5
FRAMES = 2 * PERIOD
POWER = 0.002837200844477648
WINDOW = torch.hann_window(FFT)


def networks() -> torch.nn.ModuleDict:
    package, config = _package(), argparse.Namespace(**HPARAMS)
    return torch.nn.ModuleDict(
        {
            "enc_c": package.Encoder(32, 2, KINDS, BAND, FFT),
            "dec_c": package.CarrierDecoder(config, 96, 2, BAND),
            "dec_m_0": package.MsgDecoder(KINDS, BAND, 24, 5),
        }
    )


def signals(batch: int) -> Tensor:
    """Noises of random colour under random envelopes, some with tones: what codecs and voices make, [batch, samples]."""
    samples = FRAMES * HOP
    spectrum = torch.fft.rfft(torch.randn(batch, samples))
    bins = spectrum.shape[1]
    colour = F.interpolate(torch.randn(batch, 1, 9) * 0.8, bins, mode="linear")[:, 0].exp()
    colour[:, int(bins * 12 / 22.05) :] *= torch.randint(0, 2, (batch, 1)).float() + 1e-4  # speech of 24 kHz ends here
    noise = torch.fft.irfft(spectrum * colour, samples)
    envelope = F.interpolate(torch.rand(batch, 1, 12) + 0.1, samples, mode="linear")[:, 0]
    time, pitch = torch.arange(samples) / 44100, 80 + 300 * torch.rand(batch, 1)
    tones = sum(torch.sin(2 * torch.pi * pitch * k * time + 6.3 * torch.rand(batch, 1)) / k for k in range(1, 12))
    y = envelope * (noise / noise.std(1, keepdim=True) + torch.rand(batch, 1) * tones)
    return y * (POWER / y.square().mean(1, keepdim=True)).sqrt()


def spectrum_of(y: Tensor) -> Tensor:
    return torch.stft(y, FFT, HOP, FFT, window=WINDOW, return_complex=True)


def mark(nets: torch.nn.ModuleDict, y: Tensor, symbols: Tensor, sdr: float) -> Tensor:
    """y [batch, samples] with symbols int64 [batch, frames] hidden in it."""
    spectrum = spectrum_of(y)
    magnitude = spectrum.abs()[:, None]
    message = F.one_hot(symbols, KINDS).float().transpose(1, 2)[:, None]
    words = nets["enc_c"].transform_message(message)
    merged = torch.cat([nets["enc_c"](magnitude), magnitude.repeat(1, 32, 1, 1), words.repeat(1, 32, 1, 1)], 1)
    raw = nets["dec_c"].main(merged).abs()
    raw = raw * (torch.arange(raw.shape[2]) < BAND)[:, None]
    hidden = raw / (raw.square().mean(2, keepdim=True) + 1e-9).sqrt() / 10 ** (sdr / 20)
    hidden = hidden * magnitude.square().mean((2, 3), keepdim=True).sqrt()
    marked = torch.relu(magnitude - hidden)[:, 0]
    return torch.istft(torch.polar(marked, spectrum.angle()), FFT, HOP, FFT, window=WINDOW, length=y.shape[1])


def step(nets: torch.nn.ModuleDict, batch: int, sdr: float) -> tuple[Tensor, float]:
    y = signals(batch)
    symbols = torch.randint(0, KINDS, (batch, FRAMES + 1))
    heard = mark(nets, y, symbols, sdr)
    shift = int(torch.randint(0, HOP // 16, ()))
    heard = F.pad(heard[:, shift:], (0, shift))
    scores = nets["dec_m_0"](spectrum_of(heard).abs()[:, None])[:, 0]
    right = (scores.argmax(1) == symbols).float().mean().item()
    return F.cross_entropy(scores, symbols), right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sdr", type=float, default=12.0)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    nets = networks()
    optimiser = torch.optim.AdamW(nets.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, arguments.steps)
    for number in range(arguments.steps):
        loss, right = step(nets, arguments.batch, arguments.sdr)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if number % 20 == 0 or number == arguments.steps - 1:
            print(f"step {number}: loss {loss.item():.3f}, symbols right {right:.3f}", flush=True)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "hparams.yaml").write_text(yaml.safe_dump(HPARAMS), encoding="utf-8")
    for name, net in nets.items():
        state = {
            key: tensor.contiguous() if tensor.dtype == torch.int64 else tensor.to(torch.bfloat16)
            for key, tensor in net.state_dict().items()
        }
        save_file(state, arguments.folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
