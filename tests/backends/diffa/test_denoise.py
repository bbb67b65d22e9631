"""The denoising loop over logits that the tests make up: no network at all."""

from __future__ import annotations

import json

import pytest
import torch

from backends.diffa.decoding import DecodingOptions
from backends.diffa.denoise import Denoising
from backends.diffa.remasking import candidates, transfer_counts
from tests.backends.diffa.folders import DATA

VOCABULARY, MASK, END, FILL = 20, 19, 18, 17


def sure(confidences: list[float], tokens: list[int] | None = None) -> torch.Tensor:
    """Logits [1, rows, vocabulary] that give each row's token exactly that probability."""
    rows = []
    for place, confidence in enumerate(confidences):
        shares = torch.full((VOCABULARY,), (1 - confidence) / (VOCABULARY - 1), dtype=torch.float64)
        shares[tokens[place] if tokens else place] = confidence
        rows.append(shares.log())
    return torch.stack(rows)[None]


def started(**options) -> Denoising:
    return Denoising(DecodingOptions(**options).checked(), MASK, {END}, FILL)


def finished(denoising: Denoising, logits) -> Denoising:
    while not denoising.done:
        denoising.take(logits(denoising) if callable(logits) else logits)
    return denoising


def test_the_fixed_schedule_commits_the_most_confident_first():
    denoising = started(steps=2, block_length=4, max_new_tokens=4)
    denoising.take(sure([0.3, 0.9, 0.5, 0.8]))
    assert denoising.ids.tolist() == [MASK, 1, MASK, 3]
    denoising.take(sure([0.3, 0.9, 0.5, 0.8], [7, 8, 9, 10]))
    assert denoising.ids.tolist() == [7, 1, 9, 3]  # what is committed is never changed
    assert denoising.done
    assert denoising.committed == [[1, 3], [2, 0]]


def test_blocks_go_left_to_right_and_windows_follow_the_cache():
    def windows(cache):
        denoising, seen = started(steps=4, block_length=2, max_new_tokens=4, cache=cache), []
        while not denoising.done:
            window = denoising.window()
            seen.append((window.whole, window.start, window.stop, window.block.start))
            denoising.take(sure([0.5, 0.6]))
        return seen

    assert windows("none") == [(True, 0, 4, 0)] * 2 + [(True, 0, 4, 2)] * 2
    assert windows("prefix") == [(True, 0, 4, 0), (False, 0, 4, 0), (True, 0, 4, 2), (False, 2, 4, 2)]
    assert windows("dual") == [(True, 0, 4, 0), (False, 0, 2, 0), (True, 0, 4, 2), (False, 2, 4, 2)]


@pytest.mark.parametrize(("cache", "passes"), [("none", 10), ("prefix", 4), ("dual", 4)])
def test_more_steps_than_tokens(cache, passes):
    """The plain loop makes its empty steps, as the reference does; with a cache a full block is left."""
    denoising = finished(started(steps=10, block_length=2, max_new_tokens=4, cache=cache), sure([0.5, 0.6]))
    assert denoising.forward_passes == passes == denoising.steps_planned
    assert denoising.ids.tolist() == [0, 1, 0, 1]


def test_the_threshold_commits_all_that_reach_it_and_always_one():
    denoising = started(steps=4, block_length=4, max_new_tokens=4, threshold=0.8)
    denoising.take(sure([0.3, 0.9, 0.5, 0.85]))
    assert denoising.committed == [[1, 3]]
    denoising.take(sure([0.3, 0.9, 0.5, 0.85]))
    assert denoising.committed[-1] == [2]
    denoising.take(sure([0.3, 0.9, 0.5, 0.85]))
    assert denoising.done


def test_the_factor_rule_stops_at_the_first_failing_rank():
    denoising = started(steps=4, block_length=4, max_new_tokens=4, factor=1.0)
    denoising.take(sure([0.7, 0.1, 0.68, 0.6]))  # ranks need -, 2/3, 3/4, 4/5: the third fails
    assert denoising.committed == [[0, 2]]
    denoising.take(sure([0.7, 0.1, 0.68, 0.6]))  # of the two left the last one fails, and is committed all the same
    assert denoising.committed[-1] == [3, 1]
    assert denoising.done


def test_the_factor_rule_takes_the_best_where_all_others_fail():
    denoising = started(steps=4, block_length=4, max_new_tokens=4, factor=0.1)
    for left in ([1], [3], [2, 0]):
        denoising.take(sure([0.2, 0.5, 0.3, 0.4]))
        assert denoising.committed[-1] == left


def test_guidance_mixes_two_rows_and_counts_two_passes():
    denoising = started(steps=1, block_length=1, max_new_tokens=1, cfg_scale=1.0)
    conditional, unconditional = torch.zeros(1, VOCABULARY), torch.zeros(1, VOCABULARY)
    conditional[0, 3], conditional[0, 4], unconditional[0, 3] = 2.0, 1.5, 1.9
    denoising.take(torch.stack([conditional, unconditional]))  # 1.9 + 2 * 0.1 = 2.1 against 2 * 1.5 = 3
    assert denoising.ids.tolist() == [4]
    assert denoising.forward_passes == 2


def test_a_predicted_mask_is_never_committed():
    for options in ({}, {"threshold": 0.5}, {"factor": 1.0}, {"temperature": 1.0}):
        denoising = finished(
            started(steps=2, block_length=2, max_new_tokens=2, **options), sure([0.9, 0.9], [MASK, MASK])
        )
        assert MASK not in denoising.ids.tolist()


@pytest.mark.parametrize("early_stop", [True, False])
def test_early_stop_waits_for_the_whole_block(early_stop):
    options = {"steps": 6, "block_length": 2, "max_new_tokens": 6, "early_stop": early_stop}
    denoising = started(**options)
    denoising.take(sure([0.9, 0.5], [END, 4]))
    assert not denoising.done
    denoising.take(sure([0.9, 0.5], [END, 4]))
    assert denoising.done is early_stop
    if early_stop:
        assert denoising.ids.tolist() == [END, 4, FILL, FILL, FILL, FILL]
        assert denoising.forward_passes == 2


def test_planned_steps_never_grow_and_end_at_the_truth():
    for options in ({}, {"threshold": 0.55}, {"cache": "dual"}, {"early_stop": True}):
        denoising, plans = started(steps=8, block_length=4, max_new_tokens=8, **options), []
        while not denoising.done:
            plans.append(denoising.steps_planned)
            denoising.take(sure([0.3, 0.9, 0.5, 0.85]))
        plans.append(denoising.steps_planned)
        assert plans == sorted(plans, reverse=True)
        assert plans[-1] == denoising.steps_done


def test_schedules_equal_the_reference():
    expected = json.loads((DATA / "expected" / "generations.json").read_text(encoding="utf-8"))["num_transfer_tokens"]
    for name, counts in expected.items():
        masked, steps = (int(part.lstrip("maskedtp")) for part in name.split("_"))
        assert transfer_counts(masked, steps) == counts


def test_noise_draws_from_the_tempered_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 9.0])
    draws, confidence = candidates(logits.repeat(20_000, 1), 4, 0.5, torch.Generator().manual_seed(0))
    wanted = (logits[:4].double() / 0.5).softmax(-1)
    found = torch.bincount(draws, minlength=5)[:4] / len(draws)
    torch.testing.assert_close(found, wanted.float(), atol=0.01, rtol=0)
    assert confidence.dtype == torch.float64
    # Confidence is the clean probability, the mask's share included.
    torch.testing.assert_close(confidence[draws == 0][0], logits.double().softmax(-1)[0])
