"""Options by which a command is given code of one's own: ``--plugin`` in every command, for components; ``--network``.

What they name is imported for this call, and forgotten when the command ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edm_unified.cli.parameters import SizesType


def _register(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> None:
    """Import the plugins and register their components until the command ends."""
    if context.resilient_parsing or not given:
        return
    from edm_unified.recipe.plugins import plugin

    for text in dict.fromkeys(given):
        context.find_root().with_resource(plugin(text, "--plugin"))


def with_plugins(command: click.Command) -> click.Command:
    """``command`` with the option ``--plugin``, which comes before all others, so that they know its components."""
    if not any(option.name == "plugins" for option in command.params):
        command.params.append(
            click.Option(
                ["--plugin", "plugins"],
                multiple=True,
                metavar="FILE|MODULE[:CLASS]",
                is_eager=True,
                expose_value=False,
                callback=_register,
                help="Register the components (solvers, schedules, data, ...) of a file .py or a module of your own, "
                "which is imported, for this call. May be repeated.",
            )
        )
    return command


def of_family(family: str) -> list[Any]:
    """What the plugins of this call have of a family, as it stands there: classes, and objects that were named."""
    from edm_unified.components import plugins

    return [found for plugin in plugins.ACTIVE for its, found in plugin.objects if its == family]


F = TypeVar("F", bound=Callable[..., Any])
_GIVEN = "edm_unified.own_network"
"""Under this key of a context stand the fields of the network that its options name."""
_TRAINED = "edm_unified.own_trainee"


def _fields() -> dict[str, Any]:
    found: dict[str, Any] = click.get_current_context().meta.setdefault(_GIVEN, {})
    return found


def _lend(context: click.Context, option: click.Parameter, given: str | None) -> None:
    """Import the network, before other options are looked at."""
    if given is None or context.resilient_parsing:
        return
    from edm_unified.recipe.own_network import lent

    context.find_root().with_resource(lent(given, "--network"))
    _fields()["network"] = given


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(context: click.Context, option: click.Parameter, given: Any) -> None:
        if given is not None and not context.resilient_parsing:
            if "network" not in _fields():
                raise ValueError(f"{option.opts[0]}: is of a network of your own; name that by --network FILE.py:make")
            _fields()[name] = given

    return keep


def network(weights: bool = True) -> Callable[[F], F]:
    """The options that put a network of one's own in the place of a recipe's denoiser; ``load`` looks at them."""

    def decorate(command: F) -> F:
        for names, field, more in reversed(_OPTIONS):
            if weights or field in ("network", "weights"):
                words = [name for name in names if weights or name != "--weights"]
                callback = _lend if field == "network" else _keep(field)
                eager = field == "network"
                command = click.option(
                    *words, f"own_{field}", expose_value=False, is_eager=eager, callback=callback, **more
                )(command)
        return command

    return decorate


def trainee(command: F) -> F:
    """``--network`` of a training: the network that is trained."""

    def lend(context: click.Context, option: click.Parameter, given: str | None) -> None:
        _lend(context, option, given)
        if given is not None:
            context.meta[_TRAINED] = given

    return click.option(
        "--network", "own_network", metavar="FILE.py:MAKE", expose_value=False, is_eager=True, callback=lend,
        help="Train a network of your own, what MAKE(shape, classes, augment) returns; it is imported.",
    )(command)  # fmt: skip


def amend() -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """The change to recipes that the options of this command ask for; None where they ask for none."""
    context = click.get_current_context(silent=True)
    if context is None or not context.meta.get(_GIVEN):
        return None
    if (name := context.meta.get(_TRAINED)) is not None:
        return lambda tree: tree | {"network": {"kind": "own", "network": name}}
    fields = fields_of_the_network()

    def placed(tree: dict[str, Any]) -> dict[str, Any]:
        from edm_unified.recipe import own_network

        return own_network.placed(tree, fields)

    return placed


def fields_of_the_network() -> dict[str, Any]:
    """What the options say of the network, as the fields of a recipe's ``own_network``."""
    given = dict(_fields())
    convention = given.pop("convention", None)
    told = {name: given.pop(name) for name in ("prediction", "schedule", "time", "toward") if name in given}
    if "shape" in given:
        given["shape"] = list(given["shape"])
    if convention is None and not told:
        return given
    from edm_unified.components.component import encode
    from edm_unified.denoisers.preconditioning import AnyPreconditioning
    from edm_unified.interop import convention_of
    from edm_unified.recipe import parse_component
    from edm_unified.schedules import AnySchedule

    if convention is not None:
        if told:
            raise ValueError(
                f"--convention: says all of it; leave --{next(iter(told)).replace('schedule', 'trained-on')} out"
            )
        return given | {"convention": encode(parse_component(AnyPreconditioning, convention, "--convention"))}
    if "prediction" not in told:
        from edm_unified.recipe.own_network import SIGN

        raise ValueError(f"--network {given['network']}: {SIGN}")
    if "schedule" in told:
        told["schedule"] = parse_component(AnySchedule, told["schedule"], "--trained-on")
    try:
        return given | {"convention": encode(convention_of(**told))}
    except ValueError as error:
        raise ValueError(f"--{error}") from None


PREDICTIONS = ("epsilon", "v", "velocity", "score", "x0", "edm", "denoised")
"""As :func:`edm_unified.wrap` has them; written out, as the command line waits for no torch."""
_OPTIONS: tuple[tuple[tuple[str, ...], str, dict[str, Any]], ...] = (
    (
        ("--network",),
        "network",
        {
            "metavar": "FILE.py:MAKE",
            "help": "A network of your own in the place of the recipe's denoiser: what MAKE() of a file or module "
            "returns, which is imported. The recipe's data go too; name some by --set data=.",
        },
    ),
    (
        ("--weights", "--network-weights"),
        "weights",
        {"metavar": "FILE", "help": "Of --network: its state dict, .pt or .safetensors."},
    ),
    (
        ("--prediction",),
        "prediction",
        {"type": click.Choice(PREDICTIONS), "help": "Of --network: what it predicts."},
    ),
    (
        ("--time",),
        "time",
        {
            "metavar": "TIME",
            "help": "Of --network: what it is told: t, 1-t, index, nearest_index, sigma, log_sigma, with a factor as "
            "in 1000*t. At t = 0 are the data.",
        },
    ),
    (
        ("--toward",),
        "toward",
        {
            "type": click.Choice(["noise", "data"]),
            "help": "Of --network: where a velocity points, n - x_0 or x_0 - n; without it, the way its time runs.",
        },
    ),
    (
        ("--trained-on",),
        "schedule",
        {"metavar": "SCHEDULE", "help": "Of --network: the schedule of its training, e.g. vp."},
    ),
    (
        ("--convention",),
        "convention",
        {"metavar": "KIND", "help": "Of --network: a preconditioning that says all this, e.g. edm:sigma_data=0.5."},
    ),
    (
        ("--shape",),
        "shape",
        {"type": SizesType(), "help": "Of --network: the shape of a sample, where no data say it."},
    ),
    (
        ("--classes",),
        "classes",
        {"type": click.IntRange(0), "help": "Of --network: how many classes it is told, by an argument label."},
    ),
)
