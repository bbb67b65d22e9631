"""Choosing tokens: the laws of top-k, top-p and temperature, and independence of the batch."""

import pytest
import torch

from backends.transformer.sampling import (
    penalised,
    pick,
    probabilities,
    request_generator,
    request_noise,
    sample_rows,
)


def noise_like(logits: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return request_noise(request_generator(seed), torch.empty_like(logits))


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-6])
def test_the_coldest_draws_are_greedy(temperature: float) -> None:
    """As a number and as a tensor; logits over such a temperature are beyond float32."""
    logits, noise = torch.tensor([[1.0, 30.0, 29.0], [-5.0, -7.0, -6.0]]), torch.ones(2, 3)
    for setting in (temperature, torch.tensor([temperature] * 2)):
        assert pick(logits, noise, setting, 50).tolist() == [1, 0]


def test_temperature_zero_is_greedy_and_takes_the_lowest_of_ties() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0]])
    assert pick(logits, noise_like(logits), 0.0, 2).tolist() == [1]
    assert pick(logits, None).tolist() == [1]


def test_is_the_race_of_probabilities_over_noise() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(3))
    noise = noise_like(logits)
    scaled = logits / 0.9
    kept = scaled.masked_fill(scaled < scaled.topk(5).values[:, -1:], -torch.inf)
    assert torch.equal(pick(logits, noise, 0.9, 5), (kept.softmax(-1) / noise).argmax(-1))


def test_entries_tied_at_the_cut_all_stay() -> None:
    logits = torch.tensor([[3.0, 1.0, 1.0, 0.0]])
    noise = torch.tensor([[1e9, 1e9, 1e-6, 1e9]])
    assert pick(logits, noise, 1.0, 2).tolist() == [2]
    assert pick(logits, torch.tensor([[1e9, 1e9, 1e9, 1e-9]]), 1.0, 2).tolist() != [3]


@pytest.mark.parametrize("top_k", [0, 4, 100])
def test_top_k_of_everything(top_k: int) -> None:
    logits = torch.zeros(1, 4)
    assert pick(logits, torch.tensor([[1.0, 1.0, 1.0, 1e-9]]), 1.0, top_k).tolist() == [3]


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    race = torch.tensor([[1.0, 1.0, 1e-9, 1e-12]])
    assert pick(logits, race, 1.0, 0, 0.7).item() == 0 or pick(logits, race, 1.0, 0, 0.7).item() == 1
    assert pick(logits, race, 1.0, 0, 0.9).item() == 2
    assert pick(logits, race, 1.0, 0, 0.01).item() == 0


def test_frequencies_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    logits = probabilities.log().expand(20_000, 3)
    drawn = pick(logits, noise_like(logits, 7)).bincount(minlength=3) / 20_000
    assert torch.allclose(drawn, probabilities, atol=0.02)


def test_settings_per_row_equal_each_row_alone() -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(5))
    noise = noise_like(logits)
    temperature, top_k = torch.tensor([0.0, 0.5, 1.0, 2.0]), torch.tensor([3, 0, 5, 99])
    top_p = torch.tensor([1.0, 0.9, 1.0, 0.5])
    together = pick(logits, noise, temperature, top_k, top_p)
    for row in range(4):
        settings = float(temperature[row]), int(top_k[row]), float(top_p[row])
        assert pick(logits[row], noise[row], *settings) == together[row]


def test_seed_gives_the_same_noise_again_and_another_seed_other_noise() -> None:
    logits = torch.empty(2, 9)
    assert torch.equal(noise_like(logits, 4), noise_like(logits, 4))
    assert not torch.equal(noise_like(logits, 4), noise_like(logits, 5))
    request_generator(-1)
    request_generator(2**70)


def test_repetition_penalty_lowers_what_was_seen() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalised(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]
    assert penalised(logits, seen, torch.tensor([1.0])).tolist() == logits.tolist()


def test_rows_are_sampled_each_with_its_own_generator() -> None:
    """A row gives the same id alone and beside another; ties with the k-th candidate can all be drawn."""
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(3))
    logits[1] = logits[1].argsort().lt(20).float() * 5  # twenty equal candidates for five places
    seen = torch.zeros(2, 300, dtype=torch.bool)

    def sampled(rows: list[int], seed: int) -> list[int]:
        generators = [request_generator(seed + row) for row in rows]
        return sample_rows(logits[rows], seen[rows], generators, 1.0, 5, 1.0, 1.0).tolist()

    draws = [sampled([0, 1], seed) for seed in range(0, 600, 2)]
    assert [[*sampled([0], seed), *sampled([1], seed)] for seed in range(0, 40, 2)] == draws[:20]
    strongest = set(logits[0].topk(5).indices.tolist())
    assert {first for first, _ in draws} <= strongest
    assert len({second for _, second in draws}) > 5


def test_a_seen_token_is_penalised_before_it_is_drawn() -> None:
    logits, seen = torch.tensor([[2.0, 1.5, -9.0]]), torch.tensor([[True, False, False]])
    generators = [request_generator(0)]
    assert sample_rows(logits, seen, generators, 0.0, 0, 1.0, 1.0).tolist() == [0]
    assert sample_rows(logits, seen, generators, 0.0, 0, 1.0, 2.0).tolist() == [1]
    assert probabilities(logits, seen, 0.0, 0, 1.0, 2.0).tolist() == [[0.0, 1.0, 0.0]]
