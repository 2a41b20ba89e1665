"""The directory of a training run: opening it, resuming, and writing checkpoints, snapshots and the log.

    recipe.yaml, run.json     the recipe, to be read, and as plain data, to be compared with
    checkpoints/000000200000/ see :mod:`edm_unified.training.runs.checkpoint`; the newest ones
    snapshots/                averages by power functions, from which any length is put together afterwards
    log.jsonl                 loss, as a function of σ too, norm of the gradient, rate, speed

A kill at any moment, or a full disk, loses the steps since the last checkpoint and nothing else: the same command again
takes up its state and takes the same steps. One run at a time may write.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor

from edm_unified.components.output_kinds import RUN
from edm_unified.components.outputs import OutputDirectory
from edm_unified.training.job import Job
from edm_unified.training.loop import TrainingProgress, train
from edm_unified.training.parallel import LeaderError, Team, whole
from edm_unified.training.runs import checkpoint, resume
from edm_unified.training.runs.checkpoint import Average
from edm_unified.training.runs.log import Log
from edm_unified.training.runs.state import TrainState
from edm_unified.training.runs.storage import check_seal, disk_errors, seal, signed, sync
from edm_unified.training.settings import Training
from edm_unified.training.trained_denoiser import TrainedDenoiser


class TrainingStep(NamedTuple):
    """A step taken: what is known of it, the line that was logged, the checkpoint written, and what is due."""

    progress: TrainingProgress
    line: dict[str, Any] | None
    saved: Path | None
    sample: bool


class Run:
    """Opens ``directory`` for ``job``, at the state it was left in; ``fresh`` removes an earlier run in it.

    ``output``: the directory, in the leading process. ``lost``: the numbers of lines of the log that were damaged.

    Raises ``ValueError`` where the directory holds something else, where another run is writing to it, where it was
    begun with another recipe (naming the first key that differs), where it cannot have the length asked for, and where
    its state is damaged; ``OSError`` where it cannot be written.
    """

    def __init__(self, directory: Path, job: Job, team: Team, fresh: bool = False) -> None:
        self.directory, self.job, self.team = directory, job, team
        self._output: OutputDirectory | None = None
        self.lost: list[int] = []
        self._before: Training | None = None
        self._spare: Path | None = None
        self._training: Generator[TrainingProgress, None, None] | None = None
        job.settings.share(team.size)
        team.lead(lambda: self._claim(fresh))
        try:
            begins = fresh or not checkpoint.folders(directory)
            self.state = TrainState.start(
                job, team, begins
            )  # says what does not fit, before anything is written or removed
            team.lead(lambda: self._begin(fresh))
            self._resume()
            self._log = Log(directory / "log.jsonl", self.state.step) if team.leads else None
            if self._log is not None:
                self.lost = self._log.lost
                self._prune()  # a kill may have come between a checkpoint and that
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory free, and end what reads ahead, wherever the steps were left."""
        if self._training is not None:
            self._training.close()
        if self._output is not None:
            self._output.close()

    @property
    def output(self) -> OutputDirectory:
        """The directory, which the leading process alone writes to."""
        assert self._output is not None
        return self._output

    def _claim(self, fresh: bool) -> None:
        self._output = OutputDirectory(self.directory, RUN)
        try:
            if not fresh:
                self._before = resume.check(self.directory, self.job)
        except BaseException:
            self.close()
            raise

    def _begin(self, fresh: bool) -> None:
        directory, job = self.directory, self.job
        if fresh:
            self.output.clear()
        for name in ("checkpoints", "snapshots"):
            (directory / name).mkdir(exist_ok=True)
        for path in (directory / "checkpoints").iterdir():
            if re.fullmatch(r"\.[0-9]{12,}", path.name) and path.is_dir() and not path.is_symlink():  # cut off
                shutil.rmtree(path)
        if not fresh:
            self._spare = resume.reopen(directory, self._before, job.settings)
        if self.state.origin is None and not fresh:
            self.state.origin = resume.origin_of(directory)
        origin = {} if self.state.origin is None else {"init": self.state.origin}
        about = signed({"recipe": job.tree, "data": resume.data_of(job), **origin})
        self.output.write("run.json", json.dumps(about, indent=1) + "\n")
        self.output.write("recipe.yaml", job.text)
        for name in ("log.jsonl", "log.jsonl.damaged"):
            self.output.check_ours(name)
            self.output.own(name)

    def _resume(self) -> None:
        found = checkpoint.folders(self.directory)
        if not found:
            return
        state = found[-1] / "state"
        if not state.is_dir():
            raise ValueError(f"{found[-1]}: has no state to continue from; {_remedy(found)}")
        try:
            self.team.lead(lambda: check_seal(state))
            self.state.load(state, self.team)
        except LeaderError:
            raise
        except ValueError as error:
            raise ValueError(f"{error}; {_remedy(found)}") from None

    def steps(self) -> Iterator[TrainingStep]:
        """Train to the end, writing the log and the checkpoints."""
        job, settings, team = self.job, self.job.settings, self.team
        began = time.perf_counter()
        self._training = train(job, self.state, team)
        for progress in self._training:
            step, line, saved = progress.step, None, None
            if progress.record is not None and self._log is not None:
                line = self._log.add(progress, time.perf_counter() - began)
            if settings.due("snapshot", step):
                self._snapshot(progress.images)
            if settings.due("save", step):
                saved = self._save(progress.images)
            yield TrainingStep(progress, line, saved, settings.due("sample", step))

    def averages(self) -> list[Average]:
        """The raw weights and every average, whole and on the CPU. All processes together."""
        network = self.state.trainee.network
        found = [Average(0.0, dict(network.state_dict()))]
        if self.state.averages is not None:
            found += [Average(std, weights) for std, weights in self.state.averages.weights()]
        return [Average(std, {k: _here(v) for k, v in weights.items()}) for std, weights in found]

    def denoiser(self) -> TrainedDenoiser:
        """The denoiser as it stands, by its first average. All processes together; for looking at samples."""
        averages = self.averages()
        trainee = self.job.build()
        trainee.network.load_state_dict(averages[min(1, len(averages) - 1)].weights)
        return TrainedDenoiser(trainee.denoiser, checkpoint.about(self.job, self.state.step)).to(self.team.device)

    def _save(self, images: int) -> Path:
        """A checkpoint under its name when it is whole; then those before the newest ones go."""
        team, place = self.team, self.directory / "checkpoints"
        final, partial = place / f"{images:012d}", place / f".{images:012d}"
        if self._log is not None:
            self._log.flush()
        averages = self.averages()
        if team.leads:
            shutil.rmtree(partial, ignore_errors=True)
            for folder in (partial, final):
                self.output.own(f"checkpoints/{folder.name}")
            with disk_errors(final):
                partial.mkdir()
        team.wait()
        try:
            with disk_errors(final):
                self.state.save(partial / "state", team)
                if team.leads:
                    seal(partial / "state")
                    checkpoint.write(partial, self.job, self.state.step, averages, self.state.origin)
        except BaseException:
            if team.leads:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        if team.leads:
            if final.exists():  # of a run that was taken back to an earlier checkpoint
                shutil.rmtree(final)
            os.replace(partial, final)
            sync(place)
            if self._spare is not None:
                shutil.rmtree(self._spare, ignore_errors=True)
                self._spare = None
            self._prune()
        team.wait()
        return final

    def _prune(self) -> None:
        """Remove the checkpoints before those that are kept, and what only the newest continues from."""
        found = checkpoint.folders(self.directory)
        for folder in found[: -self.job.settings.keep]:
            gone = folder.with_name(f".{folder.name}")
            os.replace(folder, gone)
            shutil.rmtree(gone, ignore_errors=True)
        for folder in found[-self.job.settings.keep : -1]:
            shutil.rmtree(folder / "state", ignore_errors=True)

    def _snapshot(self, images: int) -> None:
        """The averages by power functions as they are now."""
        averages = self.state.averages
        if averages is None or not averages.snapshots:
            return
        from safetensors.torch import save

        found = {f"{std:.6g}/{k}": _here(v) for std, weights in averages.weights() for k, v in weights.items()}
        if self.team.leads:
            content = save(found, metadata={"recipe": self.job.fingerprint})
            self.output.write(f"snapshots/{images:012d}.safetensors", content, sealed=True)


def _remedy(found: list[Path]) -> str:
    """What to do where the state of the newest checkpoint is of no use."""
    if len(found) > 1 and (found[-2] / "state").is_dir():
        return f"remove {found[-1]} to go back to the checkpoint before it"
    return "its weights can be used, but to train, name another directory with --out, or start over with --fresh"


def _here(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).to("cpu", copy=True).contiguous()
