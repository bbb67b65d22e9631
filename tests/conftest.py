"""Set-up for all tests: no network, one thread per library, a home of its own."""

from __future__ import annotations

import os

# Before any numeric library is imported: several test processes share two cores, and oversubscribed OpenMP collapses.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_TORCH_COMPILE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
