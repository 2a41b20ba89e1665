"""Weights that training begins with in the place of random ones: ``training.init``, those of another run."""

from __future__ import annotations

from typing import Any

from torch import nn

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative


@component
class InitialWeights:
    """The weights of another run, or of one of its checkpoints, ``path``; nothing else of it is taken over.

    ``ema``: null for the average that it made (of several, the first), 0 for the weights as they were trained, or the
    length of a power-function average. Which file that was, and its SHA-256, stands in ``run.json`` and in every
    checkpoint; once training has begun, the file is needed no more.
    """

    path: str
    ema: Nonnegative | None = None

    def fill(self, network: nn.Module) -> dict[str, Any]:
        """Put them into ``network``; what is recorded of them. Raises ``ValueError`` naming three that do not fit."""
        from edm_unified.training.runs import checkpoint  # which reads the settings of a run, and so this file

        try:
            folder = checkpoint.find(self.path)
            meta = checkpoint.read_meta(folder)
            entry = checkpoint.choose(meta, self.ema, folder)
            weights = checkpoint.read_weights(folder, entry, meta["recipe"])
        except ValueError as error:
            raise ValueError(f"training.init: {error}") from None
        checkpoint.check_fit(network, weights, f"training.init: {folder / entry['file']}", 3)
        network.load_state_dict(weights)
        return {"path": self.path, "images": meta["images"], **entry}
