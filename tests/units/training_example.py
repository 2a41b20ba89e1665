"""A small recipe to train, for the tests."""

from __future__ import annotations

from pathlib import Path

from edm_unified.recipe import Recipe, loads

RECIPE = """
title: "A toy"
source: nobody
schedule: {kind: edm}
sampler:
  steps: {kind: karras, n: 6}
  solver: {kind: heun}
data: {kind: random_mixture, dimension: 2, components: 3, samples: 512}
network: {kind: mlp, width: 16, blocks: 1, noise_features: 8, dropout: 0.1}
preconditioning: {kind: edm, sigma_data: 0.5}
objective: {noise: {kind: log_normal}, weight: {kind: edm}}
training:
  images: 320
  batch: 32
  conditional: true
  label_dropout: 0.25
  ema: {kind: power, stds: [0.05, 0.1]}
  clip: 1.0
  log_every: 32
  save_every: 64
  snapshot_every: 128
  sample_every: 320
"""


def recipe(*overrides: str) -> Recipe:
    """The recipe above with ``overrides`` such as ``training.images=64``."""
    found = loads(RECIPE, "toy", overrides)
    assert isinstance(found, Recipe)
    return found


def contents(run: Path) -> dict[str, bytes]:
    """Everything that a finished run has to have got right: weights, averages, snapshots."""
    return {str(file.relative_to(run)): file.read_bytes() for file in sorted(run.rglob("*.safetensors"))}
