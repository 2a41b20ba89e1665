"""How long, how fast and on what a network is trained: the ``training:`` of a recipe.

Everything is counted in *images shown*, the unit in which EDM and EDM2 state their lengths, rates and half-lives. A
step shows ``batch`` images, whatever the number of processes and of accumulated micro-batches: these only say how the
work is cut up, not what is computed.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Positive, Seed, Share, whole
from edm_unified.components.family import Family
from edm_unified.training.augment import AnyAugment
from edm_unified.training.initial_weights import InitialWeights
from edm_unified.training.optimization.ema import AnyEMA, HalfLife
from edm_unified.training.optimization.optimizers import Adam, AnyOptimizer
from edm_unified.training.optimization.rates import AnyRate, Constant, Images


@component
class Training:
    """The length of the training, its batch, optimizer and averages; see ``docs/training.md``.

    ``images``: images shown in all; the last step may go over. ``batch``: images of one step of the optimizer, over
    all processes and all ``accumulation`` micro-batches. ``conditional``: feed the labels of the data to the network;
    ``label_dropout``: the share of them replaced by "none", for classifier-free guidance. ``stratified``: spread the
    noise levels of a batch evenly, u_i = (π(i) + U_i)/B, which has the same expectation and less variance.

    ``conditions``: which conditions of the data besides the class are fed to the network, such as ``[image]``, the
    noisy copy of each sample in pairs; ``condition_dropout``: the share of rows without them.

    ``clip``: the largest norm of the gradient, null for no limit. ``precision``: of the network's forward pass;
    weights, gradients and optimizer stay float32, averages float64. ``parallel``: what several processes under
    ``torchrun`` do: ``ddp`` keeps the weights on each, ``fsdp`` cuts them up among them (FSDP2).

    ``log_every``, ``save_every``, ``sample_every``, ``snapshot_every``: in images. Null: every hundredth, twentieth,
    tenth and fiftieth of the length. ``keep``: how many checkpoints stay. Snapshots of power-function averages, which a
    length chosen afterwards is put together from, all stay. ``workers``: threads that read data on a disk ahead; null:
    one for each CPU of the process, up to 8. ``init``: weights of another run to begin with, null for random ones.
    """

    images: Images
    batch: Count = 512
    accumulation: Count = 1
    conditional: bool = False
    label_dropout: Share = 0.0
    augment: Annotated[AnyAugment | None, Family("augmentations")] = None
    stratified: bool = False
    optimizer: Annotated[AnyOptimizer, Family("optimizers")] = Adam()
    rate: Annotated[AnyRate, Family("rates")] = Constant()
    ema: Annotated[AnyEMA | None, Family("averages")] = HalfLife()
    clip: Positive | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    checkpoint_activations: bool = False
    channels_last: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    seed: Seed = 0
    log_every: Images | None = None
    save_every: Images | None = None
    sample_every: Images | None = None
    snapshot_every: Images | None = None
    keep: Count = 3
    workers: Annotated[int, whole(most=1024)] | None = None
    init: InitialWeights | None = None
    conditions: tuple[Literal["vector", "image", "tokens"], ...] = ()
    condition_dropout: Share = 0.0
    added_later: ClassVar[tuple[str, ...]] = ("workers", "init", "conditions", "condition_dropout")
    FREE: ClassVar[tuple[str, ...]] = (
        "images", "log_every", "save_every", "sample_every", "snapshot_every", "keep", "workers",
    )  # fmt: skip
    """Settings on which no weight depends, once it is there: they may change while a run goes on."""

    def __post_init__(self) -> None:
        if self.batch % self.accumulation:
            raise ValueError(f"accumulation: must divide batch {self.batch}, got {self.accumulation}")
        if self.label_dropout and not self.conditional:
            raise ValueError("label_dropout: there are no labels to drop; set conditional: true, or leave it out")

        if self.condition_dropout and not self.conditions:
            raise ValueError("condition_dropout: there are no conditions to drop; name some, or leave it out")
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions: each is named once, got {', '.join(self.conditions)}")
        if "image" in self.conditions and self.augment is not None:
            raise ValueError("conditions: an image would not be turned with its sample; leave training.augment out")

    @property
    def steps(self) -> int:
        """Steps of the optimizer."""
        return -(-self.images // self.batch)

    def share(self, processes: int) -> int:
        """Images of one micro-batch of one process. Raises ``ValueError`` where the batch cannot be cut up so."""
        parts = self.accumulation * processes
        if self.batch % parts:
            raise ValueError(
                f"training.batch: must be a multiple of accumulation × processes = {parts}, got {self.batch}"
            )
        return self.batch // parts

    def every(self, name: Literal["log", "save", "sample", "snapshot"]) -> int:
        """The interval of that name, in images."""
        parts = {"log": 100, "save": 20, "sample": 10, "snapshot": 50}
        given: int | None = getattr(self, f"{name}_every")
        return given if given is not None else -(-self.images // parts[name])

    def due(self, name: Literal["log", "save", "sample", "snapshot"], step: int) -> bool:
        """Whether that is done after ``step`` steps: in its turn, or because they are the last."""
        return step == self.steps or self.in_turn(name, step)

    def in_turn(self, name: Literal["log", "save", "sample", "snapshot"], step: int) -> bool:
        """Whether the first ``step`` steps end on, or have just gone over, a multiple of that interval."""
        interval = self.every(name)
        return step * self.batch // interval > (step - 1) * self.batch // interval
