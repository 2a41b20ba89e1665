"""A network of one's own in the place of a recipe's: ``--network mylab/nets.py:make``.

``make`` is called, and what it returns is the network: a module, or a denoiser that :func:`edm_unified.wrap` made of
one. It is imported because it is named for this call. A recipe that was run with it has the name and the SHA-256 of the
file among its ``plugins``, and asks for it when it is loaded without.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from edm_unified.components import constraints, own_code, paths, plugins
from edm_unified.components.component import component
from edm_unified.components.constraints import Count, whole
from edm_unified.components.plugins import Plugin, PluginRecord
from edm_unified.data import Dataset
from edm_unified.denoisers.preconditioning import AnyPreconditioning
from edm_unified.interop import files
from edm_unified.interop.wrapping import wrap
from edm_unified.recipe import codec
from edm_unified.recipe.catalogue import FAMILIES
from edm_unified.training.trained_denoiser import TrainedDenoiser

NESTED = ("state_dict", "model_state_dict", "model")
"""Under these names a file of weights may have its state dict."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
SIGN = (
    "name what it predicts, and what it is told: --prediction epsilon, v, velocity, score, x0, edm or denoised, and "
    "--time, where t = 0 are the data: a velocity told t is n - x_0, one told 1-t is x_0 - n (--toward turns the "
    "sign); or --convention KIND; or return edm.wrap(network, ...) from it"
)
_MAKERS: dict[str, Callable[..., Any]] = {}
"""What was named for this call, by name."""


@component
class OwnNetwork:
    """A network of your own as the denoiser: what ``make`` of ``network``, FILE.py:make or MODULE:make, returns.

    ``weights``: a file of its state dict, .pt or .safetensors. ``convention``: what it predicts and is told, as a row
    of the design table; none where ``make`` returns what ``edm.wrap`` made. ``shape`` of a sample, where there are no
    data to say it; ``classes`` that it is told by number, by an argument ``label``.
    """

    network: str
    weights: str | None = None
    convention: AnyPreconditioning | None = None
    shape: tuple[Count, ...] = ()
    classes: Annotated[int, whole(least=0)] = 0
    kind: Literal["own_network"] = "own_network"

    def nowhere(self) -> OwnNetwork:
        """The same without the place of its weights."""
        return replace(self, weights=None)  # type: ignore[type-var]

    def open(self, data: Any, load: Callable[[], Dataset]) -> tuple[TrainedDenoiser, Dataset]:
        """The denoiser and its data; without data a set of no samples, of the shape of the network."""
        if data is None:
            trained = self.build(None)
            return trained, Dataset(torch.empty(0, *trained.shape), None, "no data")
        dataset = load()
        return self.build(dataset), dataset

    def build(self, dataset: Dataset | None) -> TrainedDenoiser:
        """D. Raises ``ValueError`` for whatever does not fit, begun with ``denoiser: ``."""
        try:
            found = self._made(None if dataset is None else dataset.shape)
        except ValueError as error:
            raise ValueError(f"denoiser: {error}") from None
        if dataset is not None and found.shape != dataset.shape:
            raise ValueError(
                f"denoiser: {self.network} is of samples of shape {found.shape}, the data have {tuple(dataset.shape)}"
            )
        return found

    def _made(self, shape: tuple[int, ...] | None) -> TrainedDenoiser:
        wanted = self.shape or shape or ()
        made = called(self.network, wanted, self.classes, 0)
        if isinstance(made, TrainedDenoiser):
            if self.convention is not None:
                raise ValueError(f"{self.network}: returns a denoiser, whose convention is known; leave yours out")
            model = made
        elif self.convention is None:
            raise ValueError(f"{self.network}: its convention is not known; {SIGN}")
        else:
            model = wrap(made, convention=self.convention, shape=wanted, classes=self.classes)
        if not (model.shape or wanted):
            raise ValueError(f"{self.network}: the shape of a sample is not known; give --shape, or data")
        model.about["shape"] = list(model.shape or wanted)
        model.shape = tuple(model.about["shape"])
        if self.weights is not None:
            fill(model, self.weights)
        model.about["used"] = {"sha256": _digest(model, self.network)}
        model.about["source"] = self.network
        return model


@component
class OwnTrainee:
    """A network of your own that is to be trained: what ``make(shape, classes, augment)`` returns."""

    network: str
    kind: Literal["own"] = "own"

    def build(self, shape: tuple[int, ...], classes: int, augment: int) -> nn.Module:
        """It, untrained: F(x, c_noise, label=..., augment=...)."""
        made = called(self.network, shape, classes, augment)
        if isinstance(made, TrainedDenoiser):
            raise ValueError(
                f"network: {self.network}: returns a denoiser; to be trained, it must return the network alone"
            )
        try:
            inspect.signature(made.forward).bind(None, None, label=None, augment=None)
        except TypeError as error:
            raise ValueError(
                f"network: {self.network}: must have forward(x, noise, label=None, augment=None): {error}"
            ) from None
        return made  # type: ignore[no-any-return]


@contextmanager
def lent(text: str, option: str = "network") -> Iterator[Plugin]:
    """``text``, FILE.py:make or MODULE:make, is what recipes may refer to until the end.

    Raises ``ValueError``, begun with ``option`` and ``text``, where it cannot be imported or called.
    """
    label = f"{option} {text}"
    if not own_code.split(text, label)[1]:
        raise ValueError(f"{label}: name the function that makes the network, as in {text}:make")
    with own_code.imported(text, option) as code:
        make = code.get(code.attribute, label)
        if not callable(make):
            raise ValueError(f"{label}: is {type(make).__name__}; it must be what makes the network")
        members = tuple(
            (_own_members(family), cls) for family, cls in (("denoisers", OwnNetwork), ("networks", OwnTrainee))
        )
        found = Plugin(PluginRecord(text, code.sha256, "network"), members)
        _MAKERS[text] = make
        plugins.ACTIVE.append(found)
        constraints.constraints_of.cache_clear()
        try:
            yield found
        finally:
            plugins.ACTIVE.remove(found)
            del _MAKERS[text]


def _own_members(family: str) -> frozenset[Any]:
    added = (OwnNetwork, OwnTrainee)
    return frozenset(one for one in codec.members(FAMILIES[family]) if one is not type(None) and one not in added)


def called(name: str, shape: tuple[int, ...], classes: int, augment: int) -> Any:
    """What the function ``name`` makes. Raises ``ValueError`` unless that is a network."""
    make = _MAKERS.get(name)
    if make is None:
        raise ValueError(f"{name}: is code of your own, which no recipe imports by itself; give --network {name}")
    known = {"shape": shape, "classes": classes, "augment": augment}
    try:
        parameters = inspect.signature(make).parameters
        asked = {key: value for key, value in known.items() if key in parameters}
        with torch.random.fork_rng(devices=[]):
            made = make(**asked)
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"{name}: raised {type(error).__name__}{': ' + words if words else ''}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"{name}: must return a torch.nn.Module, got {type(made).__name__}")
    return made.eval() if not isinstance(made, TrainedDenoiser) else made


def fill(model: TrainedDenoiser, weights: str) -> None:
    """Put the state dict in the file ``weights`` into the network. Raises ``ValueError`` with three that do not fit."""
    place = paths.regular(paths.expanded(weights, "weights"), f"weights: {weights}")
    if not place.is_file():
        raise ValueError(f"weights: {weights}: {'is a folder' if place.is_dir() else 'no such file'}")
    network: Any = model.denoiser.network
    inner: nn.Module = getattr(network, "network", network)
    try:
        tensors = _state(files.read_tensors(place))
        fault = next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None)
        if fault is not None:
            nested = f"; the state dict may stand under {', '.join(NESTED)}"
            raise ValueError(f"{weights}: {fault!r} is no tensor{nested}")
        files.fill(inner, tensors, Path(weights))
    except ValueError as error:
        raise ValueError(f"weights: {error}") from None


def _state(found: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict in a file, without the prefixes of wrappers."""
    for name in NESTED:
        if isinstance(found.get(name), Mapping):
            found = found[name]
            break
    for prefix in PREFIXES:
        if found and all(isinstance(key, str) and key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    return dict(found)


def _digest(model: TrainedDenoiser, name: str) -> str:
    """Changes with the weights and with the code."""
    digest = next((plugin.record.sha256 for plugin in plugins.ACTIVE if plugin.record.name == name), "")
    whole = hashlib.sha256(digest.encode())
    for key, value in model.state_dict().items():
        plain = value.detach().cpu().contiguous()
        whole.update(f"{key} {plain.dtype} {tuple(plain.shape)}".encode())
        whole.update(plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return whole.hexdigest()


def placed(tree: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe ``tree`` with a network of one's own as its denoiser, ``given`` as the fields of :class:`OwnNetwork`.

    It takes the place of the denoiser and of the data that were there for it. A recipe or run that refers to this
    network already keeps them, and its denoiser has other values only where they are given.
    """
    name, denoiser = given["network"], tree.get("denoiser")
    more = {key: value for key, value in given.items() if key != "network"}
    if isinstance(denoiser, dict) and denoiser.get("kind") == "own_network" and denoiser.get("network") == name:
        return tree | {"denoiser": denoiser | more}
    trained = tree.get("network")
    if isinstance(trained, dict) and trained.get("kind") == "own" and trained.get("network") == name and not more:
        return tree
    return tree | {"denoiser": {"kind": "own_network", **given}, "data": None}
