"""LLASA's language model: a Llama whose vocabulary goes on with markers and speech tokens.

Owns loading, adapters as variants that share what they do not change, the sliced head, and plain generation of one
answer. Serving many at once is decoding.py's, sentences and audio are the backend's.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from backends.interface import ModelUnavailable
from backends.llasa.adapters import CONFIG, Adapter, adapter_base, read_adapter
from backends.llasa.async_copy import upload
from backends.llasa.decoding import TokenLoop
from backends.llasa.generation_state import Utterance
from backends.llasa.info import DEFAULT_DATE
from backends.llasa.lm_config import LanguageConfig, read_language_config
from backends.llasa.lora import LoraVariant, adapted_stack, weights_of
from backends.llasa.options import SamplingParams
from backends.llasa.prompts import prompt_ids
from backends.llasa.vocabulary import Vocabulary
from backends.transformer.checkpoint import Checkpoint, llama_names
from backends.transformer.config import TensorReader
from backends.transformer.linear import Linear, Precision, make_linear, precision
from backends.transformer.model import Transformer
from backends.transformer.sampling import probabilities

_TABLE, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_NOT_NEEDED = (r".*rotary_emb\.inv_freq", r"lm_head\.weight")


class Llasa:
    """A loaded language model. variants: "" is the model as loaded; others are adapters added to it."""

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        *,
        kind: Precision,
        device: torch.device | str = "cpu",
        full_vocabulary: bool = False,
        rows: int = 0,
    ) -> None:
        self.folder, self.device, self.kind = folder, torch.device(device), kind
        self.config: LanguageConfig = read_language_config(folder)
        self.vocabulary = Vocabulary.from_folder(_tokenizer_folder(folder, adapter))
        if self.vocabulary.size > self.config.vocabulary:
            raise ModelUnavailable(
                f"the tokenizer in {folder} has ids up to {self.vocabulary.size - 1}, "
                f"the model only {self.config.vocabulary}"
            )
        self._full, self._rows = full_vocabulary, rows
        self._row_ids = None if full_vocabulary else self._speech_rows().to(self.device)
        checkpoint = Checkpoint.from_folder(folder)
        take = self._reader(checkpoint)
        self.variants = {
            "": self._base(take if adapter is None else read_adapter(adapter, folder / "config.json").over(take))
        }
        if not self.config.tied:
            checkpoint.demand([_HEAD])
        checkpoint.finish(_NOT_NEEDED)

    @property
    def compute(self) -> torch.dtype:
        return self.kind.compute

    def add_adapter(self, name: str, folder: Path) -> None:
        """A further variant. Matrices the adapter leaves alone are shared with the base."""
        if self.vocabulary_differs(folder):
            raise ModelUnavailable(
                f"the adapter in {folder} brings a tokenizer with other token ids than its base model"
            )
        adapter = read_adapter(folder, self.folder / "config.json")
        take = self._reader(Checkpoint.from_folder(self.folder))
        self.variants[name] = self._adapted(adapter, adapter.over(take))

    def vocabulary_differs(self, folder: Path) -> bool:
        """Whether a folder holds a tokenizer whose speech tokens stand elsewhere than the model's."""
        if not (folder / "tokenizer.json").is_file():
            return False
        other, own = Vocabulary.from_folder(folder), self.vocabulary
        return (other.speech_start, other.speech_count, other.stop) != (own.speech_start, own.speech_count, own.stop)

    def prompt_ids(
        self,
        text: str,
        reference_text: str | None = None,
        reference_codes: Sequence[int] | None = None,
        system: str | None = None,
        date: str = DEFAULT_DATE,
    ) -> list[int]:
        """Ids of a prompt; the reference's codes, if given, are what the answer continues."""
        return prompt_ids(self.vocabulary, text, reference_text, reference_codes, system, date)

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_length: int,
        temperature: float = 0.0,
        top_k: int | None = 50,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> list[int]:
        """New token ids up to and with the stop token, or until prompt and answer have `max_length` tokens."""
        sampling = SamplingParams(temperature, top_k or 0, top_p, repetition_penalty)
        utterance = Utterance(prompt_ids, max_length - len(prompt_ids), sampling, new_seed() if seed is None else seed)
        loop = TokenLoop(self, slots=1, length=max_length)
        loop.admit(utterance)
        while not utterance.over:
            loop.step([utterance])
        return utterance.ids

    def extract_codes(self, ids: Iterable[int] | Tensor) -> list[int]:
        """Codes of the speech tokens before the first stop token."""
        return self.vocabulary.codes(ids)

    def next_token_probs(
        self,
        logits: Tensor,
        context_ids: Sequence[int] | Tensor,
        temperature: float = 1.0,
        top_k: int | None = 50,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
    ) -> Tensor:
        """The distribution of the next token, float32 [..., vocabulary], from logits over the full vocabulary."""
        scores = torch.as_tensor(logits)
        seen = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        seen[torch.as_tensor(context_ids, dtype=torch.int64, device=scores.device).flatten()] = True
        sampling = SamplingParams(temperature, top_k or 0, top_p, repetition_penalty)
        return probabilities(scores, seen, **asdict(sampling))

    def seen(self, ids: Sequence[int], variant: str = "") -> Tensor:
        """Which rows of the head stand for one of `ids`, bool [rows]."""
        seen = torch.zeros(self.config.vocabulary, dtype=torch.bool, device=self.device)
        seen.index_fill_(0, upload(ids, self.device), value=True)
        row_ids = self.variants[variant].row_ids
        return seen if row_ids is None else seen[row_ids]

    def bytes(self) -> int:
        """Bytes of all weights on the device, shared ones once."""
        parts: dict[int, int] = {}
        for variant in self.variants.values():
            parts.update(weights_of(variant))
        return sum(parts.values())

    # --- loading ---

    def _reader(self, checkpoint: Checkpoint) -> TensorReader:
        """Reads weights by name. A tied head is the table as stored: an adapter for one of the two leaves the other
        alone."""
        return checkpoint.reader(lambda name: _TABLE if name == _HEAD and self.config.tied else name)

    def _base(self, take: TensorReader) -> LoraVariant:
        stack = Transformer(
            self.config.stack,
            lambda name, shape: take(llama_names()(name), shape),
            precision=self.kind,
            device=self.device,
            rows=self._rows,
        )
        return LoraVariant(stack, *self._ends(take))

    def _ends(self, take: TensorReader) -> tuple[Tensor, Linear, Tensor | None]:
        """The embedding table, the head and its row ids."""
        shape = (self.config.vocabulary, self.config.stack.width)
        # With quantised matrices the table is a lookup in 16 bits: half the memory, and no product ever reads it.
        dtype = torch.bfloat16 if self.kind.weights == "int8" else self.compute
        table = take(_TABLE, shape).to(self.device, dtype, copy=True)
        head = take(_HEAD, shape)
        if self._row_ids is not None:
            head = head[self._row_ids.to(head.device)]
        return table, self._linear(head), self._row_ids

    def _linear(self, weight: Tensor) -> Linear:
        return make_linear(weight, self.kind, self.device, self._rows)

    def _adapted(self, adapter: Adapter, take: TensorReader) -> LoraVariant:
        base = self.variants[""]
        stack = adapted_stack(base.stack, adapter, take, self._linear)
        ends = self._ends(take) if {_TABLE, _HEAD} & adapter.changed else (base.table, base.head, base.row_ids)
        return LoraVariant(stack, *ends)

    def _speech_rows(self) -> Tensor:
        first, count = self.vocabulary.speech_start, self.vocabulary.speech_count
        return torch.cat([torch.arange(first, first + count), torch.tensor([self.vocabulary.stop])])


def load_llasa(
    model_dir: str | Path,
    adapter_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    full_vocabulary: bool = False,
    rows: int = 0,
    packed: bool = True,
) -> Llasa:
    """The language model of a Hugging Face folder, with an adapter merged in if one is given.

    model_dir may itself be an adapter folder that names a local folder as its base. dtype: a torch dtype or "float32",
    "bfloat16", "float16", "int8". full_vocabulary: every token can be drawn, not only speech and stop; rows: see
    make_linear; packed: see Precision. Raises ModelUnavailable naming the tensor, token or file that is missing or does
    not fit.
    """
    folder, adapter = Path(model_dir), None if adapter_dir is None else Path(adapter_dir)
    if not folder.is_dir():
        raise ModelUnavailable(f"there is no model folder {folder}")
    if adapter is None and (folder / CONFIG).is_file() and not (folder / "config.json").is_file():
        folder, adapter = base_of(folder), folder
    kind = precision(dtype, device) if isinstance(dtype, str) else Precision(dtype)
    kind = replace(kind, weights="packed") if packed and kind.weights == "dense" else kind
    return Llasa(folder, adapter, kind=kind, device=device, full_vocabulary=full_vocabulary, rows=rows)


def base_of(adapter: Path) -> Path:
    """The folder of the base model that an adapter names. Raises ModelUnavailable if it is not a folder on this
    machine."""
    base = adapter_base(adapter)
    if not base or not Path(base).is_dir():
        raise ModelUnavailable(
            f"the adapter in {adapter} names the base model {base!r}, which is not a folder here; name the base"
        )
    return Path(base)


def new_seed() -> int:
    """A random seed that fits JSON numbers."""
    return secrets.randbelow(2**31)


def _tokenizer_folder(folder: Path, adapter: Path | None) -> Path:
    """An adapter may bring its own tokenizer; the base's otherwise."""
    return adapter if adapter is not None and (adapter / "tokenizer.json").is_file() else folder
