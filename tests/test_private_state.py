"""Tests look at what modules show. What still reaches behind that is counted here, with the reason."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PUBLIC = {"_replace", "_asdict", "_fields"}  # of namedtuples, whose own names could be anything

RULE = "a small rule that is tried without the model, file or server that it belongs to"
FAULT = "a part is replaced by one that fails, waits or counts, where no argument of the public face takes one"
STATE = "what must be given back or left alone, and no event, answer or snapshot shows"
LIBRARY = "the private names of another library, which ours is compared with, or has to replace"
REASONS = (RULE, FAULT, STATE, LIBRARY)


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Private attributes of other objects, as `object._name`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if name.startswith("_") and not name.startswith("__") and name not in PUBLIC:
                yield ast.unparse(node)


FOUND = {
    path.relative_to(TESTS).as_posix(): uses
    for path in sorted(TESTS.rglob("*.py"))
    if (uses := Counter(private_uses(ast.parse(path.read_text(encoding="utf-8")))))
}
# File -> how often, and why.
LEFT: dict[str, tuple[int, str]] = {
    "app/cluster/test_board.py": (1, STATE),
    "app/cluster/test_pool.py": (7, STATE),
    "app/commands/test_client.py": (3, RULE),
    "app/http/test_tls.py": (3, FAULT),
    "app/media/test_files.py": (3, RULE),
    "app/media/test_pool.py": (5, STATE),
    "app/realtime/test_state_machine.py": (2, STATE),
    "app/serving/test_channel.py": (1, STATE),
    "app/serving/test_lifecycle.py": (1, STATE),
    "app/serving/test_loading_limits.py": (1, FAULT),
    "app/serving/test_pool.py": (1, STATE),
    "app/serving/test_pool_memory.py": (3, FAULT),
    "app/serving/test_queue.py": (1, STATE),
    "app/serving/test_shares.py": (4, STATE),
    "app/test_temp_folders.py": (2, FAULT),
    "backends/csm/test_backend.py": (6, FAULT),
    "backends/csm/test_text.py": (1, STATE),
    "backends/diffa/test_backend.py": (1, STATE),
    "backends/embedded/test_espeak.py": (1, RULE),
    "backends/embedded/test_voices.py": (6, RULE),
    "backends/fake/test_fake.py": (2, STATE),
    "backends/llasa/test_async_copy.py": (2, FAULT),
    "backends/llasa/test_backend.py": (1, RULE),
    "backends/llasa/test_cloning.py": (3, STATE),
    "backends/llasa/test_codec.py": (3, STATE),
    "backends/llasa/test_speed.py": (4, STATE),
    "backends/llasa/training/test_finetune.py": (4, FAULT),
    "backends/test_dxgi.py": (5, LIBRARY),
    "backends/test_worker.py": (4, LIBRARY),
    "backends/transformer/cpu_int8/test_fused.py": (2, STATE),
    "backends/transformer/test_linear.py": (1, RULE),
    "backends/whisper/onnx/test_binding.py": (5, STATE),
    "backends/whisper/onnx/test_encoder_parts.py": (2, STATE),
    "backends/whisper/onnx/test_int8_probe.py": (1, RULE),
    "backends/whisper/reference.py": (1, LIBRARY),
    "backends/whisper/test_audio.py": (1, LIBRARY),
    "backends/whisper/test_backend.py": (1, RULE),
    "backends/whisper/test_live.py": (4, STATE),
    "backends/whisper/test_live_real_weights.py": (1, RULE),
    "clients/programs/realtime_livekit.py": (2, LIBRARY),
    "clients/programs/realtime_livekit_model.py": (2, LIBRARY),
    "clients/programs/realtime_pipecat.py": (1, LIBRARY),
    "scripts/test_bootstrap.py": (6, RULE),
    "scripts/test_onnx_carrier.py": (2, RULE),
    "scripts/test_windows_runtime.py": (1, RULE),
    "support/cluster.py": (1, STATE),
}


@pytest.mark.parametrize("file", sorted({*FOUND, *LEFT}))
def test_no_test_reaches_further_into_private_state(file: str) -> None:
    """Instead: show it in a snapshot, or in an attribute without the underscore."""
    uses = FOUND.get(file, Counter[str]())
    most, reason = LEFT.get(file, (0, RULE))
    assert uses.total() <= most, dict(uses)
    assert reason in REASONS


@pytest.mark.parametrize("source", ["pool._jobs", "a.b._c()", "f(x)._y = 1"])
def test_the_count_finds_every_use(source: str) -> None:
    assert [*private_uses(ast.parse(source))]


def test_own_attributes_and_public_names_are_not_counted() -> None:
    assert not [*private_uses(ast.parse("self._a = cls._b = x._replace(y=1); z.__class__"))]
