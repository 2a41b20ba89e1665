"""The state that training continues from, as one object that is saved and loaded.

Weights, optimizer, averages, the scale of half precision, the step, and what is summed up for the next line of the log.
Random numbers and the order of the data are functions of the step (see :mod:`edm_unified.training.random_numbers`), so
the step is their state.

It is kept by ``torch.distributed.checkpoint``: every process writes its own part, and any number of processes can read
it. Torch pickles some of it; it is read by :mod:`edm_unified.training.runs.distributed_files`, which executes nothing.
Weights to be given away are in :mod:`edm_unified.training.runs.checkpoint`.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from edm_unified.training.job import Job, Trainee
from edm_unified.training.parallel import Team, distribute
from edm_unified.training.runs import distributed_files
from edm_unified.training.statistics import LossStatistics


@dataclass
class TrainState:
    """``trainee`` learns; ``model`` is the same as the processes share it, and is what is called.

    ``rates``: the learning rate of each group of parameters, before the rule of the recipe. ``origin``: the file that
    the weights began as, where they began as those of another run.
    """

    trainee: Trainee
    model: nn.Module
    optimizer: torch.optim.Optimizer
    averages: Any
    scaler: torch.amp.GradScaler
    statistics: LossStatistics
    rates: tuple[float, ...]
    step: int = 0
    origin: dict[str, Any] | None = None

    @classmethod
    def start(cls, job: Job, team: Team, fresh: bool = True) -> TrainState:
        """The state before the first step; ``fresh``: with the weights that ``training.init`` names, where it does."""
        settings, device = job.settings, team.device
        trainee = job.build()
        origin = settings.init.fill(trainee.network) if fresh and settings.init is not None else None
        trainee = trainee.to(device)
        network = trainee.network
        if settings.checkpoint_activations:
            if not hasattr(network, "checkpoint_activations"):
                raise ValueError(f"training.checkpoint_activations: {job.network.kind} has no such option")
            network.checkpoint_activations = True  # type: ignore[assignment]  # a plain attribute of our networks
        if settings.channels_last:
            network.to(memory_format=torch.channels_last)
        model = distribute(trainee, settings.parallel, team)
        if settings.compile:
            network.compile()
        optimizer = settings.optimizer.build(trainee.parameters())
        averages = None if settings.ema is None else settings.ema.build(network)
        scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
        rates = tuple(group["lr"] for group in optimizer.param_groups)
        return cls(trainee, model, optimizer, averages, scaler, LossStatistics(device), rates, origin=origin)

    def tree(self) -> dict[str, Any]:
        """Everything by name, as tensors that :meth:`load` can fill in place."""
        model, optimizer = get_state_dict(self.trainee, self.optimizer)
        tree: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "tally": self.statistics.sums,  # the name in the files of checkpoints
        }
        if self.averages is not None:
            tree["averages"] = self.averages.state_dict()
        scale = self.scaler.state_dict()
        tree["counters"] = torch.tensor(
            [self.step, scale.get("scale", 0.0), scale.get("_growth_tracker", 0)], dtype=torch.float64
        )
        return tree

    def save(self, directory: Path, team: Team) -> None:
        """Write it; all processes together."""
        team.add(self.statistics.sums)  # the same for all: which process writes what all have is not said
        try:
            with _quiet(), _interrupted():
                distributed_checkpoint.save(self.tree(), checkpoint_id=str(directory))
        finally:
            if not team.leads:
                self.statistics.sums.zero_()

    def load(self, directory: Path, team: Team) -> None:
        """Become what :meth:`save` wrote. Raises ``ValueError`` where that does not fit or is damaged."""
        tree = self.tree()
        try:
            with _quiet(), _interrupted():
                distributed_files.load(tree, directory)
            set_state_dict(
                self.trainee, self.optimizer, model_state_dict=tree["model"], optim_state_dict=tree["optimizer"]
            )
        except (distributed_checkpoint.api.CheckpointException, OSError, RuntimeError, ValueError, TypeError, KeyError,
                AssertionError, EOFError, pickle.UnpicklingError) as error:  # fmt: skip
            failures = getattr(error, "failures", None)
            cause = next(iter(failures.values()))[0] if failures else error
            words = str(cause).rpartition("metadata read failed: ")[2].strip()  # new versions of torch put it before
            first = next(iter(words.splitlines()), "")
            if first.startswith(f"{directory}{os.sep}"):
                raise ValueError(first) from None
            raise ValueError(f"{directory}: cannot be read ({first[:160] or type(cause).__name__})") from None
        if self.averages is not None:
            self.averages.load_state_dict(tree["averages"])
        self.step = int(tree["counters"][0])
        if self.scaler.is_enabled():
            scale, growth = tree["counters"][1:].tolist()
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(growth)})
        self.statistics.sums.copy_(tree["tally"])
        if not team.leads:
            self.statistics.sums.zero_()


@contextmanager
def _interrupted() -> Iterator[None]:
    """Ctrl-C as itself: torch.distributed.checkpoint wraps it in an error of its own, as if a file were damaged."""
    try:
        yield
    except distributed_checkpoint.api.CheckpointException as error:
        if any(isinstance(cause, KeyboardInterrupt) for cause, _ in error.failures.values()):
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that there is one process only, its notes on its own future, and its tracebacks."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
