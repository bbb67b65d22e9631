"""From samples to embeddings: log-mel, Whisper encoder, taps, and the two adapters.

Owns the length arithmetic and the policy for audio that does not fit one window. Knows nothing of prompts or decoding.

Policy: audio of up to one encoder window (30 s) gives 64 acoustic embeddings and 12.5 semantic ones per second. Longer
audio is cut into consecutive windows, each encoded alone, and their embeddings follow one another; nothing is
dropped. Audio under 80 ms is lengthened with silence to 80 ms, the shortest that has a semantic embedding. No samples
at all are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from backends.diffa import acoustic, semantic
from backends.diffa.checkpoint import fill, open_checkpoint, read_config
from backends.interface import ASR_SAMPLE_RATE, InvalidInput, ModelUnavailable, Samples
from backends.transformer.bounds import MOST_HEADS, MOST_HIDDEN, MOST_LAYERS, MOST_POSITIONS, MOST_WIDTH, check_size
from backends.transformer.checkpoint import Checkpoint

SHORTEST_SAMPLES = ASR_SAMPLE_RATE * 80 // 1000
_TAPS_OF_DEPTH = {32: 8}  # whisper-large has eight taps, every other size four
_DEFAULT_TAPS = 4


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """One clip of audio as the language model takes it.

    embeddings: float32 [n, width]; pieces: windows it was cut into; padded: it was lengthened to 80 ms.
    """

    embeddings: Tensor
    pieces: int
    padded: bool


class AudioEncoder(nn.Module):
    """The whole audio side, in float32 whatever the language model runs in."""

    def __init__(
        self,
        extractor: WhisperFeatureExtractor,
        encoder: WhisperEncoder,
        acoustic_adapter: acoustic.AcousticAdapter,
        semantic_adapter: semantic.SemanticAdapter,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.encoder = encoder
        self.acoustic = acoustic_adapter
        self.semantic = semantic_adapter
        self.taps = tap_indices(encoder.config.encoder_layers, len(acoustic_adapter.layer_prompts))

    @property
    def piece_samples(self) -> int:
        """Samples of one encoder window."""
        return int(self.extractor.n_samples)

    def tokens(self, samples: int) -> int:
        """Number of embeddings for a clip of so many samples."""
        full, rest = divmod(samples, self.piece_samples)
        pieces = [self.piece_samples] * full + ([max(rest, SHORTEST_SAMPLES)] if rest else [])
        frames = (encoder_frames(mel_frames(piece, self.extractor.hop_length)) for piece in pieces)
        return sum(len(self.acoustic.layer_weights) + count // semantic.SUBSAMPLING for count in frames)

    @torch.no_grad()
    def encode(self, samples: Samples) -> EncodedAudio:
        """samples: float32 [time] at 16 kHz. Raises InvalidInput for empty or non-finite audio."""
        if samples.ndim != 1 or len(samples) == 0:
            raise InvalidInput("the audio holds no samples", param="messages")
        if not np.isfinite(samples).all():
            raise InvalidInput("the audio holds samples that are not finite numbers", param="messages")
        pieces = cut(samples, self.piece_samples)
        embeddings = torch.cat([self.embed(piece) for piece in pieces])
        return EncodedAudio(embeddings, len(pieces), len(samples) < SHORTEST_SAMPLES)

    def embed(self, piece: Samples) -> Tensor:
        """At most one window of samples -> [prompts + frames // 4, width]: acoustic embeddings first."""
        states, last = self.encoder_states(self.features(piece))
        frames = last[: encoder_frames(mel_frames(len(piece), self.extractor.hop_length))]
        return torch.cat([self.acoustic(states), self.semantic(frames)])

    def features(self, piece: Samples) -> Tensor:
        """Log-mel [mels, frames] of one window, padded with silence to its full length."""
        # A copy: samples may be a read-only map, which torch warns of.
        extracted = self.extractor(np.array(piece, np.float32), sampling_rate=ASR_SAMPLE_RATE, return_tensors="pt")
        return extracted["input_features"][0]  # type: ignore[no-any-return]

    def encoder_states(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """(tapped states, last state), each [frames, width]; only the last one is after the final norm."""
        features = features.unsqueeze(0).to(self.encoder.conv1.weight)
        output = self.encoder(features, output_hidden_states=True)
        return [output.hidden_states[tap][0] for tap in self.taps], output.last_hidden_state[0]


def cut(samples: Samples, piece_samples: int) -> list[Samples]:
    """Consecutive windows of at most `piece_samples`; one that is shorter than 80 ms is lengthened with silence."""
    pieces = [samples[start : start + piece_samples] for start in range(0, len(samples), piece_samples)]
    return [np.pad(piece, (0, max(0, SHORTEST_SAMPLES - len(piece)))) for piece in pieces]


def mel_frames(samples: int, hop: int) -> int:
    """Spectrogram frames that hold audio: ceil(samples / hop)."""
    return -(-samples // hop)


def encoder_frames(mel: int) -> int:
    """Encoder frames that hold audio, after its stride of two."""
    return (mel - 1) // 2 + 1


def tap_indices(depth: int, taps: int) -> list[int]:
    """Indices into the encoder's hidden states (0 = before the first layer): the last one of each of `taps` equal
    parts.

    2 5 8 11 for small (12 layers), 0-3 for tiny, 5 11 17 23 for medium, 3 7 ... 31 for large.
    """
    return [depth * (part + 1) // taps - 1 for part in range(taps)]


def load_audio_encoder(whisper_dir: Path, adapter_dir: Path, out_width: int, device: torch.device) -> AudioEncoder:
    """The audio side with the encoder of `whisper_dir` and the adapters of `adapter_dir`. Raises ModelUnavailable."""
    encoder = _load_encoder(whisper_dir)
    extractor = _load_extractor(whisper_dir, encoder.config)
    adapters = _load_adapters(adapter_dir, encoder.config, out_width)
    return AudioEncoder(extractor, encoder, *adapters).to(device).eval().requires_grad_(False)


def _load_encoder(folder: Path) -> WhisperEncoder:
    raw = read_config(folder)
    if raw.get("model_type") != "whisper":
        raise ModelUnavailable(f"{folder} is not a Whisper model (model_type {raw.get('model_type')!r})")
    try:
        _check_sizes(raw)
        with torch.device("meta"):
            encoder = WhisperEncoder(WhisperConfig(**raw))
    except (TypeError, ValueError, KeyError, ArithmeticError, StrictDataclassError) as error:
        raise ModelUnavailable(f"{folder / 'config.json'} is not a usable Whisper configuration: {error!r}") from error
    checkpoint = open_checkpoint(folder)
    prefixes = (prefix for prefix in ("model.encoder.", "encoder.") if f"{prefix}conv1.weight" in checkpoint.names)
    fill(encoder, checkpoint, next(prefixes, "model.encoder."))
    return encoder


def _check_sizes(raw: Mapping[str, Any]) -> None:
    """Raises ValueError for an encoder of impossible sizes, before its layers are made."""
    check_size("encoder_layers", raw.get("encoder_layers", 1), MOST_LAYERS)
    check_size("encoder_attention_heads", raw.get("encoder_attention_heads", 1), MOST_HEADS)
    check_size("d_model", raw.get("d_model", 1), MOST_WIDTH)
    check_size("encoder_ffn_dim", raw.get("encoder_ffn_dim", 1), MOST_HIDDEN)
    check_size("num_mel_bins", raw.get("num_mel_bins", 1), MOST_WIDTH)
    check_size("max_source_positions", raw.get("max_source_positions", 1), MOST_POSITIONS)


def _load_extractor(folder: Path, config: WhisperConfig) -> WhisperFeatureExtractor:
    if (folder / "preprocessor_config.json").is_file():
        extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    else:
        extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    if extractor.feature_size != config.num_mel_bins or extractor.nb_max_frames != 2 * config.max_source_positions:
        raise ModelUnavailable(f"preprocessor_config.json and config.json of {folder} do not belong together")
    return extractor


def _load_adapters(
    folder: Path, whisper: WhisperConfig, out_width: int
) -> tuple[acoustic.AcousticAdapter, semantic.SemanticAdapter]:
    checkpoint = open_checkpoint(folder)
    checkpoint.demand(required_names(checkpoint, whisper.encoder_layers))
    inner = checkpoint.shape(acoustic.published_name("layers.0.feed_forward.up.bias"))[0]
    prompts, taps = checkpoint.shape(acoustic.published_name("layer_weights"))
    if not 1 <= taps <= whisper.encoder_layers or not prompts:
        raise ModelUnavailable(f"{folder} reads {taps} states of an encoder that has {whisper.encoder_layers} layers")
    wide = checkpoint.shape(semantic.PREFIX + "conv.2.bias")[0]
    narrow = checkpoint.shape(semantic.PREFIX + "linear_connector.0.bias")[0]
    heads = _heads(folder, whisper)
    with torch.device("meta"):
        acoustic_adapter = acoustic.AcousticAdapter(whisper.d_model, heads, inner, prompts, taps, out_width)
        semantic_adapter = semantic.SemanticAdapter(whisper.d_model, wide, narrow, out_width)
    fill(acoustic_adapter, checkpoint, rename={n: acoustic.published_name(n) for n in acoustic_adapter.state_dict()})
    fill(semantic_adapter, checkpoint, semantic.PREFIX)
    return acoustic_adapter, semantic_adapter


def required_names(checkpoint: Checkpoint, depth: int) -> list[str]:
    """Published names of all adapter tensors (71 with four taps); other keys of the file are not looked at."""
    weights = acoustic.published_name("layer_weights")
    taps = checkpoint.shape(weights)[-1] if weights in checkpoint.names else _TAPS_OF_DEPTH.get(depth, _DEFAULT_TAPS)
    if taps > depth:
        raise ModelUnavailable(f"{checkpoint.source} reads {taps} states of an encoder that has {depth} layers")
    with torch.device("meta"):
        networks = acoustic.AcousticAdapter(1, 1, 1, 1, taps, 1), semantic.SemanticAdapter(1, 1, 1, 1)
    names = [acoustic.published_name(name) for name in networks[0].state_dict()]
    return names + [semantic.PREFIX + name for name in networks[1].state_dict()]


def _heads(folder: Path, whisper: WhisperConfig) -> int:
    """The Q-former's heads: the encoder's, as the DIFFA folder's config.json tells them (absent: the encoder
    folder)."""
    described = read_config(folder).get("whisper_config") if (folder / "config.json").is_file() else None
    if described is not None and not isinstance(described, dict):
        raise ModelUnavailable(f"{folder}: whisper_config is no object")
    heads = (described or {}).get("encoder_attention_heads", whisper.encoder_attention_heads)
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise ModelUnavailable(f"{folder}: encoder_attention_heads is {heads!r}, not a whole number above 0")
    if whisper.d_model % heads:
        raise ModelUnavailable(f"{folder}: {heads} attention heads do not divide the width {whisper.d_model}")
    return heads
