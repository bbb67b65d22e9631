"""Train a Whisper of about two megabytes on espeak-ng's speech of a closed vocabulary; for the tests, not for users.

    python scripts/train_tiny_whisper.py tests/data/whisper_tiny --minutes 30

Writes the published layout (model.safetensors in fp16, config, generation config, tokenizer, preprocessor config). Three
phases: short crops at random positions of the 30 s window (the encoder's positions are sinusoids, so they may be cut), longer
crops, and full windows with several sentences, silence and noise. A CTC head, thrown away afterwards, teaches the encoder.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from backends.whisper.audio import WINDOW_FRAMES, log_mel
from backends.whisper.languages import LANGUAGES
from scripts.tiny_speech import PARTS, RATE, VOICES, Samples, Sentence, comfort_noise, draw_sentence, speaker

MELS = 80
STEP = 320  # samples per encoder position, 20 ms
TIMESTAMPS = 1501
IGNORE = -100


# --- Tokenizer -------------------------------------------------------------------------------------------------------


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE in which every word of the vocabulary is one token, then Whisper's special tokens in their order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = {word for part in PARTS for pair in part for text in pair for word in text.split()}
    corpus = [f" {word}" for word in sorted(words)] * 4 + ["."]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    tokenizer.train_from_iterator(corpus, trainer)
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    times = [f"<|{index * 0.02:.2f}|>" for index in range(TIMESTAMPS)]
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in times])
    return tokenizer


def generation_config(tokenizer: Tokenizer, alignment_heads: list[list[int]]) -> GenerationConfig:
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("endoftext", "startoftranscript", "notimestamps")}
    specials = ("startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech")
    return GenerationConfig(
        alignment_heads=alignment_heads,
        begin_suppress_tokens=[tokenizer.token_to_id("Ġ"), ids["endoftext"]],
        bos_token_id=ids["endoftext"],
        decoder_start_token_id=ids["startoftranscript"],
        eos_token_id=ids["endoftext"],
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": tokenizer.token_to_id(f"<|{code}|>") for code in LANGUAGES},
        max_initial_timestamp_index=50,
        max_length=448,
        no_timestamps_token_id=ids["notimestamps"],
        pad_token_id=ids["endoftext"],
        prev_sot_token_id=tokenizer.token_to_id("<|startofprev|>"),
        return_timestamps=False,
        suppress_tokens=[tokenizer.token_to_id(mark) for mark in "#*@~"]
        + [tokenizer.token_to_id(f"<|{name}|>") for name in specials],
        task_to_id={task: tokenizer.token_to_id(f"<|{task}|>") for task in ("transcribe", "translate")},
    )


# --- Material --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clip:
    sentence: Sentence
    language: str
    samples: Samples


def speak_clips(random_source: random.Random, count: int, *, unseen: bool) -> list[Clip]:
    clips = []
    for _ in range(count):
        language = "en" if random_source.random() < 0.65 else "de"
        sentence = draw_sentence(random_source, unseen=unseen)
        voice = random_source.choice(VOICES[language])
        spoken = speaker().say(sentence.text(language), voice, random_source.randint(130, 200))
        clips.append(Clip(sentence, language, spoken.samples))
    return clips


@dataclass(frozen=True, slots=True)
class Example:
    """mel: [80, 2 * positions]; tokens and targets of the decoder; ctc: labels of the encoder; first: its position."""

    mel: np.ndarray
    tokens: list[int]
    targets: list[int]
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
            samples[:active] = np.cumsum(np.random.default_rng(self.random.randrange(1 << 30)).standard_normal(active)) / 100
        return samples * np.float32(10 ** self.random.uniform(-3.5, -0.3))

    def _lay_out(self, language: str, positions: int, fill: float) -> tuple[Samples, list[tuple[int, int, Clip]], int | None]:
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
            at = last + self.random.randint(8, 70)
            if self.random.random() > fill:
                return line, inside, None

    def example(self, positions: int, *, moved: bool, fill: float, silence: float) -> Example:
        first = self.random.randint(0, WINDOW_FRAMES // 2 - positions) if moved and self.random.random() < 0.6 else 0
        sot, eot = self.ids["<|startoftranscript|>"], self.ids["<|endoftext|>"]
        if self.random.random() < silence:
            samples = self.no_speech(positions)
            return Example(_mel(samples, positions), [sot], [self.ids["<|nospeech|>"]], [], first)
        language = "en" if self.random.random() < 0.6 else "de"
        inside: list[tuple[int, int, Clip]] = []
        while not inside:
            line, inside, cut = self._lay_out(language, positions, fill)
        samples = self._colour(line)
        translate, timed = self.random.random() < 0.3, self.random.random() < 0.6
        if cut is not None and not timed:
            samples = samples.copy()
            samples[cut * STEP :] = 0
        prompt = [sot, self.ids[f"<|{language}|>"], self.ids["<|translate|>" if translate else "<|transcribe|>"]]
        body = self._body(inside, first, cut, "en" if translate else language, timed)
        tokens, targets = [*prompt, *body], [IGNORE] * 2 + body + [eot]
        targets[0] = prompt[1]
        if self.random.random() < 0.3:
            context = self._earlier("en" if translate else language)
            tokens = [self.ids["<|startofprev|>"], *context, *tokens]
            targets = [IGNORE] * (len(context) + 1) + targets
        if not timed:
            targets[len(targets) - len(body) - 1] = IGNORE  # whether times are wanted is not for the model to know
        ctc = [token for _, _, clip in inside for token in self.text_ids(clip.sentence, language)]
        return Example(_mel(samples, positions), tokens, targets, ctc, first)

    def _earlier(self, language: str) -> list[int]:
        """What stood before the window: one sentence, as in a prompt, or the window before with its times."""
        if self.random.random() < 0.4:
            return self.text_ids(self.random.choice(self.clips[language]).sentence, language)
        at, said = self.random.randint(0, 60), list[int]()
        for clip in self.random.choices(self.clips[language], k=self.random.randint(2, 12)):
            end = at - (-len(clip.samples) // STEP)
            if end >= TIMESTAMPS:
                break
            said += [self.zero + at, *self.text_ids(clip.sentence, language), self.zero + end]
            at = end + self.random.randint(8, 70)
        return said

    def _body(self, inside: list[tuple[int, int, Clip]], first: int, cut: int | None, language: str, timed: bool) -> list[int]:
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
    """Give timestamp tokens the sinusoid of their encoder position: 1501 unrelated vectors would take hours to learn."""
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


def loss_of(model: WhisperForConditionalGeneration, ctc_head: torch.nn.Linear, batch: list[Example]) -> tuple[torch.Tensor, ...]:
    hidden = encode(
        model,
        torch.from_numpy(np.stack([example.mel for example in batch])),
        torch.tensor([example.first for example in batch]),
    )
    width = max(len(example.tokens) for example in batch)
    tokens = torch.tensor([example.tokens + [0] * (width - len(example.tokens)) for example in batch])
    targets = torch.tensor([example.targets + [IGNORE] * (width - len(example.targets)) for example in batch])
    decoded = model.model.decoder(input_ids=tokens, encoder_hidden_states=hidden).last_hidden_state
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
    """share: of the training time; positions: encoder positions of a crop; batch: crops; rate: peak learning rate."""

    share: float
    positions: int
    batch: int
    rate: float
    moved: bool
    fill: float
    silence: float
    ctc_weight: float


PHASES = (
    Phase(0.25, 200, 24, 2e-3, True, 0.3, 0.05, 1.0),
    Phase(0.45, 600, 8, 1.5e-3, True, 0.8, 0.08, 0.5),
    Phase(0.30, 1500, 4, 8e-4, False, 0.9, 0.12, 0.2),
)


def train(
    model: WhisperForConditionalGeneration,
    material: Material,
    eot: int,
    minutes: float,
    phases: Sequence[Phase],
    keep: Callable[[], None],
) -> None:
    """keep: called now and then, so that a broken run leaves something to resume from."""
    ctc_head = torch.nn.Linear(model.config.d_model, eot + 1)
    parameters = [*model.parameters(), *ctc_head.parameters()]
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    shares = sum(phase.share for phase in phases)
    for number, phase in enumerate(phases):
        began, budget, step = time.process_time(), phase.share / shares * minutes * 60, 0
        while (spent := time.process_time() - began) < budget:
            rate = phase.rate * min(1.0, (step + 1) / 100) * (1.0 - 0.75 * spent / budget)
            if number == len(phases) - 1:
                rate = phase.rate * min(1.0, (step + 1) / 30) * max(0.02, 1.0 - spent / budget)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = [
                material.example(phase.positions, moved=phase.moved, fill=phase.fill, silence=phase.silence)
                for _ in range(phase.batch)
            ]
            cross_entropy, ctc = loss_of(model, ctc_head, batch)
            optimizer.zero_grad(set_to_none=True)
            (cross_entropy + phase.ctc_weight * ctc).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if step % 25 == 0:
                print(f"phase {number} step {step} {spent:.0f}s ce {cross_entropy.item():.3f} ctc {ctc.item():.3f}", flush=True)
            step += 1
            if step % 200 == 0:
                keep()


# --- Result ----------------------------------------------------------------------------------------------------------


def choose_alignment_heads(model: WhisperForConditionalGeneration, material: Material) -> list[list[int]]:
    """The cross-attention heads whose peak moves forward with the words most faithfully, at least the best one."""
    model.eval()
    model.set_attn_implementation("eager")  # the fused kernels do not give their weights
    scores = torch.zeros(model.config.decoder_layers, model.config.decoder_attention_heads)
    for _ in range(12):
        example = material.example(1500, moved=False, fill=0.5, silence=0.0)
        text = [index for index, token in enumerate(example.tokens) if token < material.ids["<|endoftext|>"]]
        with torch.no_grad():
            hidden = encode(model, torch.from_numpy(example.mel[None]), torch.tensor([0]))
            output = model.model.decoder(
                input_ids=torch.tensor([example.tokens]), encoder_hidden_states=hidden, output_attentions=True
            )
        for layer, weights in enumerate(output.cross_attentions):
            peaks = weights[0, :, text].argmax(-1).float()
            forward = (peaks.diff(dim=-1) >= 0).float().mean(-1)
            scores[layer] += forward + weights[0, :, text].max(-1).values.mean(-1)
    ranked = sorted(((scores[layer, head].item(), [layer, head]) for layer, head in np.ndindex(*scores.shape)), reverse=True)
    print("alignment", [(round(score / 12, 2), head) for score, head in ranked])
    best = ranked[0][0]
    return [head for score, head in ranked if score > 0.9 * best][:3]


def save(model: WhisperForConditionalGeneration, tokenizer: Tokenizer, heads: list[list[int]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = generation_config(tokenizer, heads)
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    WhisperFeatureExtractor(feature_size=MELS).save_pretrained(folder)
    note = {"tokenizer_class": "WhisperTokenizer", "model_max_length": 1024, "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0, help="processor time of the training")
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
    train(model, material, eot, arguments.minutes, phases, lambda: save(model, tokenizer, [[0, 0]], arguments.folder))
    save(model, tokenizer, choose_alignment_heads(model, material), arguments.folder)


if __name__ == "__main__":
    main()
