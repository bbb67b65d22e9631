"""Train a Whisper of about two megabytes on espeak-ng's speech of a closed vocabulary; for the tests, not for users.

    python scripts/train_tiny_whisper.py tests/data/whisper_tiny --minutes 30

Three phases: short crops at random positions of the 30 s window (the encoder's positions are sinusoids, so they may be
cut), longer crops, and full windows with several sentences, silence and noise. A CTC head, thrown away afterwards,
teaches the encoder.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import WhisperConfig, WhisperForConditionalGeneration

from backends.whisper.audio import WINDOW_FRAMES, log_mel
from scripts.fixtures.tiny_speech import RATE, Clip, Samples, Sentence, comfort_noise, speak_clips
from scripts.fixtures.tiny_whisper_layout import MELS, TIMESTAMPS, build_tokenizer, save

STEP = 320  # samples per encoder position, 20 ms
IGNORE = -100
MOST_CONTEXT = 223  # tokens before the start token: half of the decoder less one, as Whisper cuts its prompts


# --- Material --------------------------------------------------------------------------------------------------------


Row = tuple[list[int], list[int]]  # tokens and targets of the decoder, of one length


@dataclass(frozen=True, slots=True)
class Example:
    """mel: [80, 2 * positions]; rows: what the decoder may be asked about it; ctc: labels of the encoder; first: its
    position."""

    mel: np.ndarray
    rows: list[Row]
    ctc: list[int]
    first: int


class Material:
    """Draws training examples: clips laid out on a line of time, with gaps, noise and level changes."""

    def __init__(self, tokenizer: Tokenizer, clips: Sequence[Clip], seed: int) -> None:
        self.random = random.Random(seed)
        self.ids = tokenizer.get_vocab()
        self.tokenizer = tokenizer
        self.clips = {code: [clip for clip in clips if clip.language == code] for code in ("en", "de")}
        self.zero = self.ids["<|0.00|>"]

    def _colour(self, samples: Samples) -> Samples:
        """A level and a noise floor drawn at random; a third of the clips keep their digital silence."""
        drawn = self.random.random()
        if drawn < 0.65:
            samples = comfort_noise(samples, self.random.uniform(12, 55), self.random.randrange(1 << 30))
        return samples * np.float32(10 ** self.random.uniform(-1.2, 0.25))

    def no_speech(self, positions: int) -> Samples:
        length = positions * STEP
        kind = self.random.randrange(4)
        samples = np.zeros(length, dtype=np.float32)
        active = length if self.random.random() < 0.5 else self.random.randint(RATE // 2, length)
        time_axis = np.arange(active) / RATE
        if kind == 1:
            samples[:active] = np.random.default_rng(self.random.randrange(1 << 30)).standard_normal(active)
        elif kind == 2:
            samples[:active] = np.sin(2 * np.pi * self.random.uniform(80, 4000) * time_axis)
        elif kind == 3:
            samples[:active] = (
                np.cumsum(np.random.default_rng(self.random.randrange(1 << 30)).standard_normal(active)) / 100
            )
        return samples * np.float32(10 ** self.random.uniform(-3.5, -0.3))

    def _gap(self) -> int:
        """Positions between two sentences, 0.16 to 4 s: were they all alike, times could be guessed without
        listening."""
        return round(8 * 25 ** self.random.random())

    def _lay_out(
        self, language: str, positions: int, fill: float
    ) -> tuple[Samples, list[tuple[int, int, Clip]], int | None]:
        """Samples, the clips that lie wholly inside with their positions, and the start of one that is cut off."""
        line = np.zeros(positions * STEP, dtype=np.float32)
        at = self.random.choice((0, self.random.randint(0, 60)))
        inside: list[tuple[int, int, Clip]] = []
        while True:
            clip = self.random.choice(self.clips[language])
            end = at * STEP + len(clip.samples)
            if end > len(line):
                room = len(line) - at * STEP
                if room > RATE // 2 and self.random.random() < 0.7 and inside:
                    line[at * STEP :] = clip.samples[:room]
                    return line, inside, at
                return line, inside, None
            line[at * STEP : end] = clip.samples
            last = -(-end // STEP)
            inside.append((at, last, clip))
            at = last + self._gap()
            if self.random.random() > fill:
                return line, inside, None

    def example(self, positions: int, rows: int, *, moved: bool, fill: float, silence: float) -> Example:
        first = self.random.randint(0, WINDOW_FRAMES // 2 - positions) if moved and self.random.random() < 0.6 else 0
        if self.random.random() < silence:
            nothing = [self.ids["<|startoftranscript|>"]], [self.ids["<|nospeech|>"]]
            return Example(_mel(self.no_speech(positions), positions), [nothing], [], first)
        language = "en" if self.random.random() < 0.6 else "de"
        inside: list[tuple[int, int, Clip]] = []
        while not inside:
            line, inside, cut = self._lay_out(language, positions, fill)
        ctc = [token for _, _, clip in inside for token in self.text_ids(clip.sentence, language)]
        asked = [self._row(language, inside, first, cut) for _ in range(rows)]
        return Example(_mel(self._colour(line), positions), asked, ctc, first)

    def _row(self, language: str, inside: list[tuple[int, int, Clip]], first: int, cut: int | None) -> Row:
        """One way to ask: transcript or translation, with times or (if no sentence is cut off) without, with context or
        not."""
        task = "translate" if self.random.random() < 0.3 else "transcribe"
        timed = cut is not None or self.random.random() < 0.7
        written = "en" if task == "translate" else language
        prompt = [self.ids[f"<|{name}|>"] for name in ("startoftranscript", language, task)]
        body = self._body(inside, first, cut, written, timed)
        tokens, targets = [*prompt, *body], [prompt[1], IGNORE, *body, self.ids["<|endoftext|>"]]
        if not timed:
            targets[2] = IGNORE  # whether times are wanted is not for the model to know
        if self.random.random() < 0.5:
            context = self._earlier(written)
            return [self.ids["<|startofprev|>"], *context, *tokens], [IGNORE] * (len(context) + 1) + targets
        return tokens, targets

    def _earlier(self, language: str) -> list[int]:
        """What stood before the window: one sentence, as in a prompt, or up to four windows before it with their
        times."""
        if self.random.random() < 0.3:
            return self.text_ids(self.random.choice(self.clips[language]).sentence, language)
        said = list[int]()
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randint(0, 60)
            for clip in self.random.choices(self.clips[language], k=self.random.randint(2, 14)):
                end = at - (-len(clip.samples) // STEP)
                if end >= TIMESTAMPS:
                    break
                said += [self.zero + at, *self.text_ids(clip.sentence, language), self.zero + end]
                at = end + self._gap()
        return said[-MOST_CONTEXT:]

    def _body(
        self, inside: list[tuple[int, int, Clip]], first: int, cut: int | None, language: str, timed: bool
    ) -> list[int]:
        body = [] if timed else [self.ids["<|notimestamps|>"]]
        for start, end, clip in inside:
            text = self.text_ids(clip.sentence, language)
            body += [self.zero + first + start, *text, self.zero + first + end] if timed else text
        return [*body, self.zero + first + cut] if timed and cut is not None else body

    def text_ids(self, sentence: Sentence, language: str) -> list[int]:
        return list(self.tokenizer.encode(f" {sentence.text(language)}").ids)


def _mel(samples: Samples, positions: int) -> np.ndarray:
    return log_mel(samples, MELS)[:, : positions * 2]


# --- Model -----------------------------------------------------------------------------------------------------------


def build_model(tokenizer: Tokenizer) -> WhisperForConditionalGeneration:
    eot = tokenizer.token_to_id("<|endoftext|>")
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        num_mel_bins=MELS,
        d_model=96,
        encoder_layers=3,
        encoder_attention_heads=3,
        encoder_ffn_dim=384,
        decoder_layers=2,
        decoder_attention_heads=3,
        decoder_ffn_dim=384,
        max_target_positions=448,
        bos_token_id=eot,
        eos_token_id=eot,
        pad_token_id=eot,
        decoder_start_token_id=eot + 1,
        begin_suppress_tokens=None,
        dropout=0.0,
    )
    model = WhisperForConditionalGeneration(config)
    shape_timestamps(model, tokenizer)
    return model


def shape_timestamps(model: WhisperForConditionalGeneration, tokenizer: Tokenizer) -> None:
    """Give timestamp tokens the sinusoid of their encoder position: 1501 unrelated vectors would take hours to
    learn."""
    first = tokenizer.token_to_id("<|0.00|>")
    table = model.model.decoder.embed_tokens.weight.data
    waves = model.model.encoder.embed_positions.weight.data
    size = table[:first].norm(dim=-1).mean()
    table[first : first + TIMESTAMPS - 1] = waves / waves.norm(dim=-1, keepdim=True) * size


def encode(model: WhisperForConditionalGeneration, mel: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The encoder over fewer than 1500 positions, which start at `first` of the window."""
    encoder = model.model.encoder
    hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
    index = first[:, None] + torch.arange(hidden.shape[1])
    hidden = hidden + encoder.embed_positions.weight[index]
    for layer in encoder.layers:
        output = layer(hidden, None)
        hidden = output[0] if isinstance(output, tuple) else output
    return encoder.layer_norm(hidden)


def loss_of(
    model: WhisperForConditionalGeneration, ctc_head: torch.nn.Linear, batch: list[Example]
) -> tuple[torch.Tensor, ...]:
    hidden = encode(
        model,
        torch.from_numpy(np.stack([example.mel for example in batch])),
        torch.tensor([example.first for example in batch]),
    )
    rows = [row for example in batch for row in example.rows]
    width = max(len(tokens) for tokens, _ in rows)
    tokens = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in rows])
    targets = torch.tensor([targets + [IGNORE] * (width - len(targets)) for _, targets in rows])
    encoder_states = hidden.repeat_interleave(torch.tensor([len(example.rows) for example in batch]), dim=0)
    decoded = model.model.decoder(input_ids=tokens, encoder_hidden_states=encoder_states).last_hidden_state
    wanted = targets != IGNORE
    cross_entropy = F.cross_entropy(model.proj_out(decoded[wanted]), targets[wanted])
    voiced = [row for row, example in enumerate(batch) if example.ctc]
    if not voiced:
        return cross_entropy, torch.zeros(())
    scores = ctc_head(hidden[voiced]).log_softmax(-1).transpose(0, 1)
    labels = [torch.tensor(batch[row].ctc) + 1 for row in voiced]
    lengths = torch.full((len(voiced),), scores.shape[0])
    ctc = F.ctc_loss(scores, torch.cat(labels), lengths, torch.tensor([len(row) for row in labels]), zero_infinity=True)
    return cross_entropy, ctc


@dataclass(frozen=True, slots=True)
class Phase:
    """share: of the training time; positions: encoder positions of a crop; batch: crops; rows: ways to ask about each
    (the decoder costs a tenth of the encoder); rate: peak learning rate."""

    share: float
    positions: int
    batch: int
    rows: int
    rate: float
    moved: bool
    fill: float
    silence: float
    ctc_weight: float


PHASES = (
    Phase(0.25, 200, 24, 1, 2e-3, True, 0.3, 0.05, 1.0),
    Phase(0.45, 600, 8, 2, 1.5e-3, True, 0.8, 0.08, 0.5),
    Phase(0.30, 1500, 4, 4, 8e-4, False, 0.9, 0.12, 0.2),
)


def train(
    model: WhisperForConditionalGeneration,
    material: Material,
    eot: int,
    minutes: float,
    phases: Sequence[Phase],
    keep: Callable[[], None],
    *,
    with_ctc: bool,
) -> None:
    """keep: called now and then, so that a broken run leaves something to resume from. with_ctc: False for a model that
    is trained already, whose encoder a fresh CTC head would only spoil."""
    ctc_head = torch.nn.Linear(model.config.d_model, eot + 1)
    parameters = [*model.parameters(), *ctc_head.parameters()]
    optimizer = torch.optim.AdamW(
        [p for p in parameters if p.requires_grad], lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01
    )
    shares = sum(phase.share for phase in phases)
    for number, phase in enumerate(phases):
        began, budget, step = time.monotonic(), phase.share / shares * minutes * 60, 0
        batches = drawn_ahead(material, phase)
        while (spent := time.monotonic() - began) < budget:
            rate = phase.rate * min(1.0, (step + 1) / 100) * (1.0 - 0.75 * spent / budget)
            if number == len(phases) - 1:
                rate = phase.rate * min(1.0, (step + 1) / 30) * max(0.02, 1.0 - spent / budget)
            for group in optimizer.param_groups:
                group["lr"] = rate
            cross_entropy, ctc = loss_of(model, ctc_head, next(batches))
            optimizer.zero_grad(set_to_none=True)
            (cross_entropy + phase.ctc_weight * with_ctc * ctc).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if step % 25 == 0:
                print(
                    f"phase {number} step {step} {spent:.0f}s ce {cross_entropy.item():.3f} ctc {ctc.item():.3f}",
                    flush=True,
                )
            step += 1
            if step % 200 == 0:
                keep()


def drawn_ahead(material: Material, phase: Phase) -> Iterator[list[Example]]:
    """Batches without end, the next one made on a second core meanwhile."""

    def draw() -> list[Example]:
        options = {"moved": phase.moved, "fill": phase.fill, "silence": phase.silence}
        return [material.example(phase.positions, phase.rows, **options) for _ in range(phase.batch)]

    with ThreadPoolExecutor(1) as other:
        coming = other.submit(draw)
        while True:
            batch, coming = coming.result(), other.submit(draw)
            yield batch


# --- Result ----------------------------------------------------------------------------------------------------------


def choose_alignment_heads(model: WhisperForConditionalGeneration, material: Material) -> list[list[int]]:
    """The cross-attention heads whose peak moves forward with the words most faithfully, at least the best one."""
    model.eval()
    model.set_attn_implementation("eager")  # the fused kernels do not give their weights
    scores = torch.zeros(model.config.decoder_layers, model.config.decoder_attention_heads)
    for _ in range(12):
        example = material.example(1500, 1, moved=False, fill=0.5, silence=0.0)
        tokens = example.rows[0][0]
        text = [index for index, token in enumerate(tokens) if token < material.ids["<|endoftext|>"]]
        with torch.no_grad():
            hidden = encode(model, torch.from_numpy(example.mel[None]), torch.tensor([0]))
            output = model.model.decoder(
                input_ids=torch.tensor([tokens]), encoder_hidden_states=hidden, output_attentions=True
            )
        for layer, weights in enumerate(output.cross_attentions):
            strongest = weights[0, :, text].argmax(-1).float()
            forward = (strongest.diff(dim=-1) >= 0).float().mean(-1)
            scores[layer] += forward + weights[0, :, text].max(-1).values.mean(-1)
    ranked = sorted(
        ((scores[layer, head].item(), [layer, head]) for layer, head in np.ndindex(*scores.shape)), reverse=True
    )
    print("alignment", [(round(score / 12, 2), head) for score, head in ranked])
    best = ranked[0][0]
    return [head for score, head in ranked if score > 0.9 * best][:3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training")
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="a folder that this script wrote: go on from its weights")
    parser.add_argument("--from-phase", type=int, default=0, help="leave out earlier phases")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    tokenizer = build_tokenizer()
    clips = speak_clips(random.Random(arguments.seed), arguments.clips, unseen=False)
    material = Material(tokenizer, clips, arguments.seed)
    model = build_model(tokenizer)
    if arguments.resume:
        model = WhisperForConditionalGeneration.from_pretrained(arguments.resume, dtype=torch.float32)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{tokenizer.get_vocab_size()} tokens, {size:,} parameters, {len(clips)} clips", flush=True)
    eot = tokenizer.token_to_id("<|endoftext|>")
    phases = PHASES[arguments.from_phase :]
    keep = partial(save, model, tokenizer, [[0, 0]], arguments.folder)
    train(model, material, eot, arguments.minutes, phases, keep, with_ctc=arguments.resume is None)
    save(model, tokenizer, choose_alignment_heads(model, material), arguments.folder)


if __name__ == "__main__":
    main()
