"""One thread everywhere: the arrays are small, and results must not depend on how many cores a machine has."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # torch.manual_seed also keeps a stack trace for each kind of device that is not in use, a millisecond a test
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
