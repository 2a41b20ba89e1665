"""The trunk of the tree of a recipe: :class:`Recipe` and its :class:`Sampler`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from edm_unified.components.component import component, count
from edm_unified.components.family import Family
from edm_unified.components.plugins import PluginRecord, used_by
from edm_unified.data import AnyData, Dataset
from edm_unified.denoisers import exact
from edm_unified.denoisers.denoiser import Denoiser
from edm_unified.denoisers.preconditioning import AnyPreconditioning
from edm_unified.denoisers.thresholding import AnyThreshold, Thresholded
from edm_unified.networks import AnyNetwork
from edm_unified.recipe import canonical, codec
from edm_unified.recipe.denoisers import AnyDenoiser, made, opens
from edm_unified.recipe.guidances import AnyGuidance, ClassifierFree, Guide
from edm_unified.sampling import loop
from edm_unified.sampling.analytic_starts import AnalyticStart, AnyAnalyticStart
from edm_unified.sampling.correctors import AnyCorrector
from edm_unified.sampling.dynamics import Axis
from edm_unified.sampling.graphs import Graphs
from edm_unified.sampling.last_step import Last
from edm_unified.sampling.levels import AnySteps
from edm_unified.sampling.loop import Progress, count_nfe, levels_of
from edm_unified.sampling.renoising import AnyRenoising
from edm_unified.sampling.solvers import AnySolver
from edm_unified.sampling.solvers.multistep import shortfall
from edm_unified.schedules import AnySchedule
from edm_unified.training import Objective, Training
from edm_unified.training.job import Job
from edm_unified.training.trained_denoiser import TrainedDenoiser

Names = str | os.PathLike[str]


@component
class Sampler:
    """What is chosen after training: the levels to visit, the solver between them, and what makes it stochastic.

    ``analytic_start`` takes the highest levels without the network; ``last`` is what becomes of the fall to 0: the
    ``solver``'s own rule, ``denoise`` (D at the last level above 0) or ``stop`` (x as it is there). ``guidance`` leans
    on a class or away from a lesser network; ``threshold`` keeps what comes of it within the range of the data.
    ``label``: the class that all samples are conditioned on, by its name or its number; of several, ``red,circle``.
    ``cond``: files of what a network needs besides, ``FILE`` or ``NAME=FILE`` with commas between
    (:mod:`~edm_unified.recipe.condition_files`).
    """

    steps: Annotated[
        AnySteps,
        Family(
            help="Another rule for the noise levels, e.g. karras or log_linear:sigma_max=100", option="--steps-rule"
        ),
    ]
    solver: Annotated[AnySolver, Family("solvers", "Another solver, e.g. heun or second_order:alpha=0.5")]
    renoising: Annotated[
        AnyRenoising | None, Family(help="Noise added on the way, e.g. churn:S_churn=40 or ancestral:eta=0.5, or none.")
    ] = None
    corrector: Annotated[
        AnyCorrector | None,
        Family("correctors", "What acts on repeated levels, e.g. langevin:snr=0.16 beside --renoising corrected."),
    ] = None
    analytic_start: Annotated[
        AnyAnalyticStart | None,
        Family("analytic_starts", "The highest levels without the network, e.g. gaussian_jump:sigma=20, or none."),
    ] = None
    last: Annotated[Last, Family(help="The fall to 0: the solver's own rule, D of the level above, or none.")] = (
        "solver"
    )
    threshold: Annotated[
        AnyThreshold | None,
        Family("thresholds", "Keep D within the range of the data, e.g. static:low=-1,high=1, or none."),
    ] = None
    guidance: Annotated[
        AnyGuidance | None,
        Family(
            "guidances",
            "Lean on the class, e.g. classifier_free:w=2, or away from a lesser network, "
            "autoguidance:w=2,guide=RUN, or none.",
        ),
    ] = None
    label: Annotated[
        str | int | None,
        Family(help="Condition on this class, by its name or its number, or none.", option="--class"),
    ] = None
    cond: Annotated[
        str | None,
        Family(
            help="What the network needs besides a class, such as embeddings of a text: FILE (.npz, .safetensors, "
            ".npy) or NAME=FILE; may be repeated.",
            joined=True,
        ),
    ] = None
    anchor: Annotated[
        Literal["image", "vector"] | None,
        Family(help="The condition that the process decays to, of the shape of a sample, or none."),
    ] = None
    added_later: ClassVar[tuple[str, ...]] = ("analytic_start", "last", "threshold", "guidance", "label", "cond",
                                              "anchor")  # fmt: skip

    def analytic_start_for(self, dataset: Dataset) -> AnalyticStart | None:
        """The analytic start with the Gaussian that it goes by, estimated from the data where it gives no numbers."""
        return None if self.analytic_start is None else self.analytic_start.build(dataset)

    def guide_for(self, model: Any, dataset: Dataset, device: torch.device) -> Guide | None:
        """The guidance with all that it needs, of a model on ``device``. Raises ``ValueError`` where it cannot be."""
        return None if self.guidance is None else self.guidance.build(model, dataset, device)

    def within(self, denoiser: Denoiser, guide: Guide | None = None) -> Denoiser:
        """``denoiser`` as guided, and that under the threshold, where there are such."""
        guided = denoiser if guide is None else guide.guided(denoiser)
        return guided if self.threshold is None else Thresholded(guided, self.threshold)

    def anchor_of(self, cond: Mapping[str, object] | None) -> Tensor | None:
        """The y of an anchored process: the condition of that name. Raises ``ValueError`` where there is none."""
        if self.anchor is None:
            return None
        found = (cond or {}).get(self.anchor)
        if not isinstance(found, Tensor):
            raise ValueError(
                f"sampler.anchor: there is no {self.anchor} to anchor the process at; give --cond {self.anchor}=FILE, "
                "or leave anchor out"
            )
        return found

    def sample(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        schedule: AnySchedule,
        *,
        guide: Guide | None = None,
        analytic_start: AnalyticStart | None = None,
        seed: int = 0,
        first: int = 0,
        dtype: torch.dtype = torch.float64,
        cond: Mapping[str, object] | None = None,
        callback: Callable[[Progress], object] | None = None,
        graphs: Graphs | None = None,
    ) -> Tensor:
        """Samples from unit normal ``noise`` with every part of this sampler: :func:`edm_unified.sample` of them all.

        ``guide`` and ``analytic_start`` are what :meth:`guide_for` and :meth:`analytic_start_for` gave; an analytic
        start that names its own numbers need not be given. :meth:`Recipe.sample` makes both.

        Raises ``ValueError`` where the sampler is guided and no guide is given, where it names a class and ``cond`` has
        no ``label`` of it, and what ``sample`` raises.
        """
        if self.label is not None and (cond is None or cond.get("label") is None):
            raise ValueError(
                f"label: the sampler names {self.label!r}, and its number is known to the denoiser; give "
                "cond={'label': ...}, or draw with Recipe.sample"
            )
        if self.cond is not None and not set(cond or {}) - {"label"}:
            raise ValueError(
                f"cond: the sampler names {self.cond}, whose arrays are read by Recipe.sample; draw with that, or give "
                "cond={NAME: array}"
            )
        if (guide is None) != (self.guidance is None):
            raise ValueError(
                f"guidance: {self.guidance.kind} needs its guide; give guide=sampler.guide_for(model, dataset, device)"
                if self.guidance is not None
                else "guide: this sampler has no guidance; leave it out"
            )
        return loop.sample(
            self.within(denoiser, guide),
            noise,
            schedule=schedule,
            steps=self.steps,
            solver=self.solver,
            renoising=self.renoising,
            corrector=self.corrector,
            analytic_start=self.analytic_start if analytic_start is None else analytic_start,
            last=self.last,
            seed=seed,
            first=first,
            dtype=dtype,
            cond=cond,
            anchor=_rows(self.anchor_of(cond), len(noise)),
            callback=callback,
            graphs=graphs,
        )

    def levels(self, schedule: AnySchedule) -> tuple[float, ...]:
        """The noise levels that a run visits, in order."""
        return levels_of(self.steps, schedule, self.renoising, self.analytic_start, self.last)

    def nfe(self, schedule: AnySchedule) -> int:
        """Evaluations of D in one run, counted."""
        return count_nfe(
            self.steps,
            self.solver,
            schedule,
            self.renoising,
            self.corrector,
            self.analytic_start,
            self.last,
            None if self.guidance is None else self.guidance.counting,
        )

    def stochastic_parts(self) -> dict[str, Any]:
        """The parts that draw noise, by their names."""
        solver = self.solver if self.solver.stochastic else None
        parts = {"solver": solver, "renoising": self.renoising, "corrector": self.corrector}
        return {name: part for name, part in parts.items() if part is not None}

    def shortfall(self, schedule: AnySchedule) -> str | None:
        """A sentence where the walk is too short for the solver's order
        (:mod:`~edm_unified.sampling.solvers.reach`)."""
        return shortfall(self.solver, Axis(schedule).walk(self.levels(schedule)))


def _rows(anchor: Tensor | None, count: int) -> Tensor | None:
    """One row for each of ``count`` samples, where there is one for all."""
    return anchor if anchor is None or len(anchor) != 1 else anchor.expand(count, *anchor.shape[1:])


@component
class Recipe:
    """One published method: its schedule, its sampler, the denoiser it runs on, and how such a network is trained.

    ``preconditioning`` and ``objective`` say how the network of that method is wrapped and trained. A denoiser in
    closed form needs neither, so they are then part of the design card only. A recipe that is to be trained has
    ``data``, ``network``, ``preconditioning``, ``objective`` and ``training``, and needs no ``denoiser``: that is what
    training makes of it. ``plugins`` are those whose components it uses, with their SHA-256; they are found out when
    the recipe is made, and a recipe imports none of them.
    """

    title: str
    source: str
    schedule: Annotated[
        AnySchedule,
        Family("schedules", "Another schedule, e.g. vp or flow_matching:shift=3, over the same range of noise levels."),
    ]
    sampler: Sampler
    denoiser: Annotated[AnyDenoiser | None, Family("denoisers")] = None
    data: AnyData | None = None
    preconditioning: AnyPreconditioning | None = None
    objective: Objective | None = None
    network: Annotated[AnyNetwork | None, Family("networks")] = None
    training: Training | None = None
    plugins: tuple[PluginRecord, ...] = ()
    added_later: ClassVar[tuple[str, ...]] = ("network", "training", "plugins")

    def __post_init__(self) -> None:
        parts = {name: value for name, value in vars(self).items() if name != "plugins"}
        object.__setattr__(self, "plugins", used_by(parts))
        if self.objective is not None:
            object.__setattr__(self, "objective", self.objective.with_sigma_data_of(self.preconditioning))

    @classmethod
    def load(cls, name: Names, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe in a file, or the shipped one of that name, with ``overrides`` such as ``sampler.steps.n=10``."""
        from edm_unified.recipe import loading  # which has to know this class

        return cast("Recipe", loading.load(cls, name, overrides))

    def dump(self) -> str:
        """The recipe as canonical YAML, every field spelled out; loading it gives the recipe back."""
        return canonical.dump(self)

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits of the canonical recipe without its title and source: what the numbers depend on."""
        return canonical.hash_of(self, ("title", "source"))

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels that a run visits, in order."""
        return self.sampler.levels(self.schedule)

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        label: str | int | None = None,
        batch: int = 256,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
        scaled: bool = False,
        callback: Callable[[Progress], object] | None = None,
    ) -> Tensor:
        """Samples ``first`` … ``first + n − 1`` of ``seed``, (n, *shape), on the CPU, ``batch`` at a time.

        They are in the units of the data, 0 to 255 of images in bytes; ``scaled``, in those of the network.

        Everything that the recipe says of the sampler is used: what ``edm-unified sample`` writes, in ``dtype``.
        ``label``: the class of all, by name or number, where the denoiser has classes; without it, the sampler's.

        Raises ``ValueError`` where the denoiser cannot be made or does not fit, and ``FloatingPointError`` where it
        returns NaN or infinity.
        """
        from edm_unified.recipe.prepared import Prepared

        count("n", n, most=10_000_000)
        count("batch", batch)
        prepared = Prepared.of(self, device)
        prepared.resolved(label)
        starts = range(first, first + n, batch)
        sizes = [min(batch, first + n - start) for start in starts]
        drawn = [
            prepared.sample(size, seed, start, label, dtype, callback).samples.cpu()
            for start, size in zip(starts, sizes, strict=True)
        ]
        samples = torch.cat(drawn)
        return samples if scaled else prepared.dataset.scaling.to_raw(samples)

    def build(self) -> tuple[exact.Gaussian | exact.GaussianMixture | exact.Empirical | TrainedDenoiser, Dataset]:
        """The denoiser and the data it was made from. Raises ``ValueError`` naming the field that is at fault.

        A trained denoiser brings with it what its run keeps of the data: their scale, classes, moments, a few samples.
        They are looked for when another sample is asked for (``dataset.images``). Of a checkpoint there are no samples
        (``len`` 0), where neither it nor the recipe has data.
        """
        if self.denoiser is None:
            raise ValueError(
                "denoiser: missing; train one with `edm-unified train RECIPE --out RUN`, and name RUN in the recipe's "
                "place"
            )
        if self.data is None and not opens(self.denoiser):
            raise ValueError(f"data: missing; {self.denoiser.kind} is made from data, such as data: {{kind: digits}}")
        return made(self.denoiser, self.data, self.load_data)

    def load_data(self) -> Dataset:
        """The data. Raises ``ValueError`` naming the field that is at fault."""
        if self.data is None:
            raise ValueError("data: missing; name some, such as data: {kind: digits}")
        try:
            return self.data.load()
        except ValueError as error:
            fault = codec.located(type(self.data), "data", str(error))
            raise ValueError(f"{fault.path}: {fault.message}") from error

    def job(self) -> Job:
        """What is to be trained. Raises ``ValueError`` naming the field that is missing or does not fit."""
        parts = ("data", "network", "preconditioning", "objective", "training")
        missing = next((name for name in parts if getattr(self, name) is None), None)
        if missing is not None:
            raise ValueError(f"{missing}: missing; training needs {', '.join(parts[:-1])} and {parts[-1]}")
        network, preconditioning, objective, training = cast(Any, tuple(getattr(self, name) for name in parts[1:]))
        if isinstance(self.sampler.guidance, ClassifierFree) and not (training.conditional and training.label_dropout):
            raise ValueError(
                "sampler.guidance: needs a network that has an answer without a class; set training.conditional=true "
                "and training.label_dropout=0.1"
            )
        tree, dataset = codec.encode(canonical.canonical(self)), self.load_data()
        return Job(network, preconditioning, objective, self.schedule, training, dataset, tree, self.dump())
