"""The order of training data: a pure function of seed and position."""

from __future__ import annotations

import pytest
import torch

from edm_unified.data import order


def test_every_epoch_has_every_sample_once_and_epochs_differ() -> None:
    stream = order.indices(10, 3, 0, 40).reshape(4, 10)
    assert (stream.sort(1).values == torch.arange(10)).all()
    assert len({tuple(row) for row in stream.tolist()}) == 4
    assert not torch.equal(order.indices(10, 4, 0, 10), stream[0])


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_and_resumed_runs_read_the_same_global_batches(ranks: int) -> None:
    size, batch = 13, 8  # batches lie across the borders of epochs
    whole = order.indices(size, 0, 0, 10 * batch)
    for step in range(10):
        order.permutation.cache_clear()  # a new process
        share = batch // ranks
        parts = [order.indices(size, 0, step * batch + rank * share, share) for rank in range(ranks)]
        assert torch.equal(torch.cat(parts), whole[step * batch : (step + 1) * batch])


def test_the_order_does_not_depend_on_the_version_of_numpy() -> None:
    """The words of PCG64 are promised for ever, so this order is too; a change breaks every run that is resumed."""
    assert order.indices(8, 7, 0, 16).tolist() == EXPECTED


EXPECTED = [4, 3, 7, 6, 1, 5, 0, 2, 1, 3, 0, 6, 2, 7, 5, 4]


def test_places_are_spread_evenly() -> None:
    """Sample 0 is as likely at the front as at the back: over 4000 epochs its mean place is 4.5 ± 5 σ."""
    places = torch.stack([order.indices(10, 1, 10 * epoch, 10) for epoch in range(4000)]) == 0
    mean = (places.float() @ torch.arange(10.0)).mean()
    assert abs(float(mean) - 4.5) < 5 * (99 / 12 / 4000) ** 0.5


def test_the_order_is_independent_of_data_drawn_with_the_same_seed() -> None:
    """Seeded alike, the words that drew the data must not sort them: a part would then be no fair sample."""
    from edm_unified.data import Fractal

    points = Fractal(4000).load().images
    chosen = points[order.indices(4000, 0, 0, 2000)]
    assert (chosen.mean(0) - points.mean(0)).abs().max() < 5 * 0.5 / 2000**0.5


def test_wrong_positions() -> None:
    for wrong in ({"size": 0}, {"seed": -1}, {"start": -1}, {"count": -2}):
        arguments = {"size": 5, "seed": 0, "start": 0, "count": 1} | wrong
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: must be a whole number"):
            order.indices(**arguments)
    assert order.indices(5, 0, 7, 0).shape == (0,)
