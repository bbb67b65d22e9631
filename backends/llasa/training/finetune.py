"""LoRA fine-tuning of LLASA on a dataset: peft adapters, accelerate's loop, a loss curve, checkpoints, resume.

    python -m backends.llasa.training.finetune data.jsonl --model FOLDER -o lora_checkpoints

The result folder and its checkpoint-N folders are adapters that can be served at once. Knows no audio: a clip is text
and codes. Only what comes after the start of speech is learnt.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from backends.interface import BackendError, InvalidInput, ModelUnavailable
from backends.llasa.adapters import CONFIG
from backends.llasa.info import DEFAULT_DATE
from backends.llasa.prompts import prompt_ids
from backends.llasa.text import is_japanese, normalised_japanese
from backends.llasa.training.dataset_file import Clip, read_clips
from backends.llasa.training.loss_curve import draw_curve, drawn_in_text
from backends.llasa.vocabulary import Vocabulary

log = logging.getLogger(__name__)

CODEBOOK = 65_536  # of X-Codec-2
_STATE, _SETTINGS = "training_state.pt", "training.json"
# What a resumed training must not change; its length, its rate and how often it saves may.
_FIXED = ("rank", "alpha", "targets", "batch", "accumulation", "max_length", "seed", "date", "double_bos")
_INTERRUPTED = 130  # exit status after Ctrl+C, as shells have it
_IGNORED = -100  # label of positions that are not learnt


@dataclass(frozen=True, slots=True)
class Training:
    """rank, alpha, dropout, targets: of the adapter; accumulation: batches per optimiser step; steps: at most (0: by
    epochs); save_every: optimiser steps between checkpoints (0: one per epoch); max_length: tokens of a row."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    learning_rate: float = 1e-4
    warmup_steps: int = 10
    epochs: int = 20
    steps: int = 0
    batch: int = 1
    accumulation: int = 8
    save_every: int = 0
    max_length: int = 2048
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    date: str = DEFAULT_DATE
    double_bos: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidInput for numbers that train nothing."""
        for name in ("rank", "alpha", "epochs", "batch", "accumulation", "max_length"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("warmup_steps", "steps", "save_every"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InvalidInput(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidInput(f"learning_rate must be above 0, not {self.learning_rate}")


@dataclass(frozen=True, slots=True)
class Row:
    """ids: prompt, codes and stop token; learnt: how many of them, at the end, are learnt."""

    ids: tuple[int, ...]
    learnt: int


def finetune(
    data: Path, model: Path, output: Path, training: Training, *, device: str = "cpu", resume: bool = False
) -> list[float]:
    """Train an adapter for the model in `model` and leave it in `output`. Returns the loss of every optimiser step.

    Raises InvalidInput for a dataset that cannot be used, ModelUnavailable for a model folder that is none.
    """
    vocabulary = Vocabulary.from_folder(model)
    rows = list(training_rows(read_clips(data), vocabulary, training))
    if not rows:
        raise InvalidInput(f"{data} holds no clip that fits into {training.max_length} tokens")
    if not resume and any(output.glob(f"checkpoint-*/{CONFIG}")):
        raise InvalidInput(f"{output} holds checkpoints already; resume, or choose another folder")
    _make_folder(output)
    trainer = _Trainer(model, output, training, rows, vocabulary.pad, device)
    if resume:
        trainer.resume()
    losses = trainer.run()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (model / name).is_file():
            shutil.copyfile(model / name, output / name)
    return losses


def _make_folder(output: Path) -> None:
    """Make the output folder before the first epoch. Raises InvalidInput if it cannot be written into."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise InvalidInput(f"{output} cannot be written into: {error.strerror or error}") from error


def training_rows(clips: Iterator[Clip], vocabulary: Vocabulary, training: Training) -> Iterator[Row]:
    """The prompt of each clip as it will be served, then its codes and the stop token. Too long ones are logged."""
    for number, clip in enumerate(clips, start=1):
        text = normalised_japanese(clip.text) if is_japanese(clip.text) else clip.text
        prompt = prompt_ids(vocabulary, text, date=training.date, double_bos=training.double_bos)
        answer = [*vocabulary.speech_ids(_known(clip, number, vocabulary)), vocabulary.stop]
        if len(answer) == 1:
            continue
        if len(prompt) + len(answer) > training.max_length:
            log.warning("clip %d (%s) is left out: %d tokens", number, clip.source, len(prompt) + len(answer))
            continue
        yield Row((*prompt, *answer), len(answer))


def _known(clip: Clip, number: int, vocabulary: Vocabulary) -> list[int]:
    """The clip's codes that the model has tokens for. Raises InvalidInput if they are no codes of X-Codec-2."""
    if max(clip.code) >= CODEBOOK:
        named = f"clip {number} ({clip.source})" if clip.source else f"clip {number}"
        raise InvalidInput(f"{named} has code {max(clip.code)}; codes lie in 0..{CODEBOOK - 1}")
    known = vocabulary.known_codes(clip.code)
    if len(known) < len(clip.code):
        log.warning(
            "clip %d (%s): the model has no token for %d codes", number, clip.source, len(clip.code) - len(known)
        )
    return known


def collated(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """input_ids, attention_mask, labels: int64 [rows, longest], padded on the right."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), _IGNORED)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for i, row in enumerate(rows):
        end = len(row.ids)
        ids[i, :end] = torch.tensor(row.ids)
        labels[i, end - row.learnt : end] = ids[i, end - row.learnt : end]
        mask[i, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class _Trainer:
    """The model with its adapter, the optimiser, and where in the data the training stands."""

    def __init__(self, base: Path, output: Path, training: Training, rows: list[Row], pad: int, device: str) -> None:
        from accelerate import Accelerator

        self._training, self._rows, self._output, self._pad = training, rows, output, pad
        torch.manual_seed(training.seed)
        precision = "bf16" if training.bf16 else "no"
        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
        model = _adapted_model(base, training)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trainable, lr=training.learning_rate)
        self._per_epoch = math.ceil(len(rows) / (training.batch * training.accumulation))
        self._total = training.steps or training.epochs * self._per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate)
        self._model, self._optimiser = self._accelerator.prepare(model, optimiser)
        self._schedule = schedule
        self._losses: list[float] = []

    def _rate(self, step: int) -> float:
        """Linear warm-up, then cosine to zero."""
        warmup = min(self._training.warmup_steps, self._total // 10)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self._total - warmup)))

    def run(self) -> list[float]:
        """Train to the end; checkpoints on the way, adapter and loss curve at the end."""
        every = self._training.save_every or self._per_epoch
        self._model.train()
        while len(self._losses) < self._total:
            self._losses.append(self._step(self._group(len(self._losses))))
            step = len(self._losses)
            print(f"step {step}/{self._total} loss {self._losses[-1]:.4f}", flush=True)
            if step % every == 0 or step == self._total:
                self._save(self._output / f"checkpoint-{step}")
        self._write_adapter(self._output)
        draw_curve(self._losses, self._output / "loss.png")
        print(drawn_in_text(self._losses))
        return self._losses

    def _group(self, step: int) -> list[Row]:
        """The rows of an optimiser step: every epoch in an order of its own that depends on the seed only."""
        epoch, group = divmod(step, self._per_epoch)
        order = torch.randperm(
            len(self._rows), generator=torch.Generator().manual_seed(self._training.seed + epoch)
        ).tolist()
        size = self._training.batch * self._training.accumulation
        return [self._rows[i] for i in order[group * size : (group + 1) * size]]

    def _step(self, rows: list[Row]) -> float:
        """One optimiser step over `rows`; the loss is the mean over all their learnt tokens."""
        learnt, total = sum(row.learnt for row in rows), 0.0
        for start in range(0, len(rows), self._training.batch):
            part = rows[start : start + self._training.batch]
            batch = {name: tensor.to(self._accelerator.device) for name, tensor in collated(part, self._pad).items()}
            with self._accelerator.autocast():
                loss = self._model(**batch).loss * (sum(row.learnt for row in part) / learnt)
            self._accelerator.backward(loss)
            total += float(loss.detach())
        self._accelerator.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        self._schedule.step()
        self._optimiser.zero_grad()
        return total

    # --- checkpoints ---

    def _write_adapter(self, folder: Path) -> None:
        self._accelerator.unwrap_model(self._model).save_pretrained(str(folder))
        (folder / _SETTINGS).write_text(json.dumps(asdict(self._training)), encoding="utf-8")
        lines = [f"{step},{loss:.6f}\n" for step, loss in enumerate(self._losses, start=1)]
        (folder / "loss.csv").write_text("step,loss\n" + "".join(lines), encoding="utf-8")

    def _save(self, folder: Path) -> None:
        """A checkpoint appears under its name only when it is whole."""
        working = folder.with_name(folder.name + ".part")
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        self._write_adapter(working)
        state = {
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "losses": self._losses,
            "random": torch.get_rng_state(),
        }
        torch.save(state, working / _STATE)
        shutil.rmtree(folder, ignore_errors=True)
        working.replace(folder)

    def resume(self) -> None:
        """Continue after the last checkpoint. Raises InvalidInput if there is none."""
        from peft import load_peft_weights, set_peft_model_state_dict

        checkpoints = [
            path.parent
            for path in self._output.glob(f"checkpoint-*/{_STATE}")
            if not path.parent.name.endswith(".part")
        ]
        if not checkpoints:
            raise InvalidInput(f"{self._output} holds no checkpoint to resume from")
        last = max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]))
        self._same_training(last)
        set_peft_model_state_dict(
            self._accelerator.unwrap_model(self._model), load_peft_weights(str(last), device="cpu")
        )
        state = torch.load(last / _STATE, map_location="cpu", weights_only=True)
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._losses = list(state["losses"])
        torch.set_rng_state(state["random"])
        print(f"continuing after {last.name}", flush=True)

    def _same_training(self, checkpoint: Path) -> None:
        """Raise InvalidInput if the checkpoint was trained with settings that make it another adapter or other
        batches."""
        try:
            then = json.loads((checkpoint / _SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{checkpoint / _SETTINGS} is missing or not readable: {error}") from error
        now = json.loads(json.dumps(asdict(self._training)))
        changed = [name for name in _FIXED if then.get(name) != now[name]]
        if changed:
            said = ", ".join(f"{name} = {then.get(name)!r}" for name in changed)
            raise InvalidInput(f"{checkpoint} was trained with {said}; resume with the same, or choose another folder")


def _adapted_model(base: Path, training: Training) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    if not (base / "config.json").is_file():
        raise ModelUnavailable(f"{base} is not a model folder (it has no config.json)")
    dtype = torch.bfloat16 if training.bf16 else torch.float32
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            str(base), dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailable(f"the model in {base} cannot be loaded: {error}") from error
    if loading["missing_keys"]:  # transformers would train on top of random numbers
        raise ModelUnavailable(f"the checkpoint in {base} lacks {', '.join(sorted(loading['missing_keys'])[:8])}")
    model.config.use_cache = False
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    lora = LoraConfig(
        r=training.rank,
        lora_alpha=training.alpha,
        lora_dropout=training.dropout,
        target_modules=list(training.targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:  # targets that the model does not have
        raise InvalidInput(f"the adapter cannot be made: {error}") from error


# --- command line -----------------------------------------------------------------------------------------------------


_NUMBERS = {
    "rank": "rank of the adapter",
    "alpha": "scale of the adapter",
    "dropout": "dropout in the adapter, 0 to 1",
    "learning_rate": "highest learning rate",
    "warmup_steps": "optimiser steps of warm-up",
    "epochs": "passes over the dataset",
    "steps": "optimiser steps; 0: by epochs",
    "batch": "rows computed together",
    "accumulation": "batches per optimiser step",
    "save_every": "optimiser steps between checkpoints; 0: every epoch",
    "max_length": "longest row, tokens",
    "seed": "seed of the adapter and of the rows' order",
}


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m backends.llasa.training.finetune`, which `speech-gateway finetune` passes on."""
    defaults = Training()
    result = argparse.ArgumentParser(
        prog="speech-gateway finetune", description="Train a LoRA adapter for LLASA on a dataset."
    )
    result.add_argument("data", type=Path, help="jsonl file of `dataset create`")
    result.add_argument("--model", type=Path, required=True, help="folder of the base model")
    result.add_argument(
        "-o", "--output", type=Path, default=Path("lora_checkpoints"), help="folder (default: %(default)s)"
    )
    for name, text in _NUMBERS.items():
        value = getattr(defaults, name)
        option = f"--{name.replace('_', '-')}"
        result.add_argument(option, type=type(value), default=value, help=f"{text} (default: %(default)s)")
    result.add_argument("--targets", nargs="+", default=list(defaults.targets), help="layers to adapt")
    result.add_argument("--bf16", action="store_true", help="train in bfloat16")
    result.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    result.add_argument("--date", default=defaults.date, help="date in the prompt's header")
    result.add_argument("--double-bos", action="store_true", help="two begin tokens, as some other trainers write")
    result.add_argument(
        "--device", choices=["auto", "cpu"], default="auto", help="cpu, or auto for what accelerate finds"
    )
    result.add_argument("--resume", action="store_true", help="continue after the last checkpoint")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says. Returns the exit status."""
    options = vars(parser().parse_args(argv))
    data, model, output = options.pop("data"), options.pop("model"), options.pop("output")
    device, resume = options.pop("device"), options.pop("resume")
    try:
        training = Training(**{**options, "targets": tuple(options["targets"])})
        finetune(data, model, output, training, device=device, resume=resume)
    except (BackendError, OSError) as error:
        print(f"error: {error.message if isinstance(error, BackendError) else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; the checkpoints are in {output}, and --resume continues after the last", file=sys.stderr)
        return _INTERRUPTED
    print(f"adapter in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
