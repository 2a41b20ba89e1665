"""Collect the data of a comparison's report from its directory, and write the report."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor

from edm_unified import report
from edm_unified.compare.plan import Cell, Method, Plan, digest, label, without_paths
from edm_unified.compare.problem import ENDPOINT, Problem, Problems, Settings, Units
from edm_unified.compare.reference import reference_name, solve_reference, start_of
from edm_unified.compare.run import common_key, identity_of, pictured
from edm_unified.compare.store import Store
from edm_unified.data import Dataset, batch, order
from edm_unified.data.units import for_pictures
from edm_unified.recipe import Recipe, by_path
from edm_unified.report.data import Key, MethodView, ReportData
from edm_unified.report.ranking import short_labels


def environment(settings: Settings) -> dict[str, str]:
    """Versions and machine, for the record."""
    names = ("edm_unified", "torch", "numpy", "scipy", "scikit-learn")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    device = str(settings.device)
    if settings.device.type == "cuda":
        device = f"{device}: {torch.cuda.get_device_name(settings.device)}"
    return {
        **found,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device,
        "dtype": str(settings.dtype).removeprefix("torch."),
        "threads": str(torch.get_num_threads()),
    }


def report_data(
    plan: Plan,
    store: Store,
    settings: Settings,
    problems: Problems,
    commands: Sequence[str] = (),
    say: Callable[[str], object] = lambda _: None,
) -> ReportData:
    """Everything that the report of ``plan`` shows, read from ``store``; ``say`` takes the name of each phase."""
    say("solving for the exact samples of the report")
    keys = [Key(**method.labels) for method in plan.methods]
    names = short_labels(keys)
    problem = problems.of(plan.methods[0].recipe)
    pictures = pictured(plan.comparison, problem.shape)
    words = _problems_in_words(plan, problems)
    records = [  # under the names of this plan: another comparison may have made them under others
        record | identity_of(cell)
        for cell in plan.cells
        for record in store.records(cell.key(_common(plan, cell.method, problems, settings)))
    ]
    reference = _shown_reference(plan, problem, store, settings)
    say("measuring the exact samples")
    floors = {} if reference is None or problem.learnt else _floors(plan, problem, reference)
    sweep, usual, series = _sweep(plan)
    return ReportData(
        title=plan.comparison.title,
        description=plan.comparison.description,
        records=records,
        methods=[
            dataclasses.replace(
                _view(plan, method, key, name, words[method.recipe.data, method.recipe.denoiser]),
                series=series.get(method, ""),
                swept=dict(method.swept).get(sweep, math.nan),
            )
            for method, key, name in zip(plan.methods, keys, names, strict=True)
        ],
        facts=_facts(plan, problem, words),
        samples=_samples(plan, names, store, problems, settings),
        reference_samples=None
        if reference is None or not pictures
        else _drawn(problem.dataset, reference[:pictures].float().cpu(), plan.comparison.units).numpy(),
        data_samples=_data_samples(problem.dataset, pictures, plan.comparison.units),
        grid_budget=plan.comparison.grid_nfe if plan.comparison.grid_nfe in plan.comparison.nfe else None,
        rank_by=plan.comparison.rank_by,
        floors=floors,
        sweep=sweep,
        usual=usual,
        sweep_notes=tuple(line.removeprefix("note: ") for line in plan.coincidences()),
        environment=environment(settings),
        commands=tuple(commands),
    )


def _drawn(dataset: Dataset, x: Tensor, units: Units) -> Tensor:
    """Samples x of the network as a figure shows them: with the black and white of the data, or in their units."""
    return x if units == "network" else for_pictures(dataset, x).float()


def _data_samples(dataset: Dataset, count: int, units: Units) -> np.ndarray | None:
    """Some of the data, or of those that a run keeps where they are not at hand; None of none."""
    if not count or not len(dataset):
        return None
    try:
        return _drawn(dataset, batch(dataset, shown_of(dataset, count))[0], units).numpy()
    except ValueError:
        if dataset.measured is None:
            raise
        return _drawn(dataset, dataset.scaling.to_unit(dataset.measured.some[:count]), units).numpy()


def shown_of(dataset: Dataset, count: int) -> Tensor:
    """Indices of ``count`` of the data to be shown, or of all: drawn by a fixed seed, the classes in turn.

    Vectors, which are a cloud together, are drawn whatever their class.
    """
    n = len(dataset)
    drawn = order.indices(n, 0, 0, n)
    if dataset.labels is None or dataset.several or len(dataset.shape) == 1:
        return drawn[:count]
    labels = dataset.labels[drawn]
    by_class = labels.argsort(stable=True)
    sizes = torch.bincount(labels, minlength=dataset.classes)
    turn = torch.empty_like(by_class)  # of each of the drawn, how many of its class come before it
    turn[by_class] = torch.arange(n) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    place = torch.arange(dataset.classes)
    if dataset.classes > count:  # not the first of many classes, but some of them
        place = order.indices(dataset.classes, 0, 0, dataset.classes).argsort()
    return drawn[(turn * dataset.classes + place[labels]).argsort(stable=True)[:count]]


def _sweep(plan: Plan) -> tuple[str, float, dict[Method, str]]:
    """The one parameter that all methods were given a number for, the recipes' own value, and each method's series.

    A series is what is the same but for that parameter. Nothing where no parameter, or more than one, has two values.
    """
    values: dict[str, set[float]] = {}
    for method in plan.methods:
        for path, value in method.swept:
            values.setdefault(path, set()).add(value)
    several = [path for path, found in values.items() if len(found) > 1]
    if len(several) != 1 or not all(several[0] in dict(method.swept) for method in plan.methods):
        return "", math.nan, {}
    (path,) = several
    groups: dict[Recipe, list[Method]] = {}
    for method in plan.methods:
        same = by_path.put(method.recipe, path, dict(plan.methods[0].swept)[path])
        groups.setdefault(dataclasses.replace(same, title=method.name), []).append(method)
    names = short_labels([Key(**members[0].labels) for members in groups.values()])
    own = {dict(method.usual).get(path, math.nan) for method in plan.methods}
    series = {method: name for name, members in zip(names, groups.values(), strict=True) for method in members}
    return path, own.pop() if len(own) == 1 else math.nan, series


def _common(plan: Plan, method: Method, problems: Problems, settings: Settings) -> str:
    return common_key(plan, method, problems.of(method.recipe), settings)


def _problems_in_words(plan: Plan, problems: Problems) -> dict[tuple[object, object], str]:
    """(data, denoiser) -> what is told of it, each different; nothing where there is only one.

    Networks that were trained on the same data are one problem: all of them are held against those data.
    """
    recipes: dict[tuple[object, object], Recipe] = {(m.recipe.data, m.recipe.denoiser): m.recipe for m in plan.methods}
    models = {
        key: "trained networks" if problems.of(recipe).learnt else label(recipe.denoiser)
        for key, recipe in recipes.items()
    }
    number = len({(recipe.data, models[key]) for key, recipe in recipes.items()})
    if number < 2:
        return dict.fromkeys(recipes, "")
    short = {key: problems.of(recipe).dataset.name for key, recipe in recipes.items()}
    long = {key: f"{short[key]}, {models[key]}" for key in recipes}
    longer = {key: f"{long[key]}, {label(recipe.data)}" for key, recipe in recipes.items()}
    return next((words for words in (short, long, longer) if len(set(words.values())) == number), longer)


def _facts(plan: Plan, problem: Problem, words: dict[tuple[object, object], str]) -> dict[str, str]:
    if len(set(words.values())) > 1:
        return {"Problems": "; ".join(dict.fromkeys(words.values())), "Ranking": "apart for each problem"}
    shape = "×".join(map(str, problem.shape))
    unit = problem.dataset.unit and f" ({problem.dataset.unit})"
    return {
        **({} if plan.comparison.units == "network" else {"Units": f"of the data, as they are stored{unit}"}),
        "Data": f"{problem.dataset.name}: {len(problem.dataset):,} of shape {shape}"
        if len(problem.dataset)
        else f"none; samples of shape {shape}",
        "Denoiser": label(plan.methods[0].recipe.denoiser) if len(words) == 1 else f"{len(words)} trained networks",
    }


def _view(plan: Plan, method: Method, key: Key, name: str, problem: str) -> MethodView:
    n = method.n_for(plan.comparison.grid_nfe)
    levels: tuple[float, ...] = ()
    if n is not None:
        recipe = method.with_steps(n)
        levels = recipe.levels
    return MethodView(
        key=key,
        label=name,
        title=method.recipe.title,
        source=method.recipe.source,
        hash=method.recipe.hash,
        levels=levels,
        curve=method.recipe.schedule,
        problem=problem,
    )


def _samples(
    plan: Plan, names: Sequence[str], store: Store, problems: Problems, settings: Settings
) -> dict[str, object]:
    shown: dict[str, object] = {}
    for method, name in zip(plan.methods, names, strict=True):
        n = method.n_for(plan.comparison.grid_nfe)
        if n is None or plan.comparison.grid_nfe not in plan.comparison.nfe or not plan.comparison.grid_samples:
            continue
        cell = Cell(method, plan.comparison.grid_nfe, n, method.nfe(n), plan.comparison.seeds[0])
        saved = store.load(f"samples/{cell.key(_common(plan, method, problems, settings))}")
        if saved is not None:
            problem = problems.of(method.recipe)
            saved = saved[: pictured(plan.comparison, problem.shape)]
            if plan.comparison.units == "data":
                saved = _drawn(problem.dataset, problem.dataset.scaling.to_unit(saved), "data")
            shown[name] = saved.numpy() if bool(torch.isfinite(saved).all()) else None
    return shown


def _shown_reference(plan: Plan, problem: Problem, store: Store, settings: Settings) -> Tensor | None:
    """The exact endpoints from the start that most methods share, for the grid and for the floors of the metrics."""
    if not plan.comparison.grid_samples and set(plan.comparison.metrics) <= set(ENDPOINT):
        return None
    first = [m for m in plan.methods if m.recipe.denoiser == plan.methods[0].recipe.denoiser]
    starts = [start_of(method.recipe) for method in first]
    sigma_max = max(set(starts), key=lambda s: (starts.count(s), -abs(s - 80)))
    if problem.learnt and len({method.recipe.denoiser for method in plan.methods}) > 1:
        return None  # every network has endpoints of its own,
    if len({method.recipe.sampler.guidance for method in plan.methods}) > 1:
        return None  # and every guidance
    sampler = plan.methods[0].recipe.sampler
    name = f"reference/shown-{plan.comparison.samples}-{sigma_max:g}"
    name += f"-{problem.fingerprint}" if problem.learnt else ""
    if (guide := problem.guide(sampler)) is not None:
        name += f"-{digest([repr(without_paths(plan.methods[0].recipe).sampler.guidance), guide.fingerprint])}"
    saved = store.load(name, problem.shape)
    if saved is None and set(ENDPOINT) & set(plan.comparison.metrics):
        # a network is not asked for more than is shown: its floors would be those of its own errors
        number = plan.comparison.samples
        if problem.learnt:
            number = max(1, pictured(plan.comparison, problem.shape))
        at_start = first[starts.index(sigma_max)].recipe
        solved_for = reference_name(plan, problem, at_start, sigma_max, plan.comparison.seeds[0])
        solved = store.load(solved_for, problem.shape)
        if solved is not None and len(solved) >= number:
            return solved[:number].to(settings.device)
        try:
            saved = solve_reference(
                problem.denoiser,
                problem,
                sampler,
                sigma_max,
                plan.comparison.seeds[0],
                number,
                problem.tolerance(1e-6),
                settings,
            )
        except FloatingPointError:  # a denoiser whose ODE has no solution has no endpoints to show
            return None
        store.save(name, saved)
    return None if saved is None else saved.to(settings.device)


def _floors(plan: Plan, problem: Problem, reference: Tensor) -> dict[str, tuple[float, float, float]]:
    floors: dict[str, tuple[float, float, float]] = {}
    for name in plan.comparison.metrics:
        estimate = None if name in ENDPOINT else problem.measure(reference, name, plan.comparison.units)
        if (
            estimate is not None
            and estimate.value is not None
            and estimate.low is not None
            and estimate.high is not None
        ):
            floors[name] = (estimate.value, estimate.low, estimate.high)
    return floors


def remember(store: Store, command: str) -> list[str]:
    """Add ``command`` to those that made the directory, once, and return them all."""
    path = store.directory / "commands.txt"
    known = path.read_text("utf-8").splitlines() if path.exists() else []
    if command not in known:
        known.append(command)
        store.write("commands.txt", "\n".join(known) + "\n")
    return known


def recipe_files(plan: Plan) -> dict[str, str]:
    """The files of the recipes as they were resolved."""
    labels = short_labels([Key(**method.labels) for method in plan.methods])
    return {
        f"recipes/{_file_name(label)}.yaml": f"# {label}\n{method.recipe.dump()}"
        for method, label in zip(plan.methods, labels, strict=True)
    }


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in label)


def write_report(plan: Plan, store: Store, data: ReportData) -> None:
    """Write the report with its figures, the recipes as they were resolved, and the environment."""
    files: dict[str, bytes | str] = dict(recipe_files(plan))
    files["environment.json"] = json.dumps(dict(data.environment), indent=2) + "\n"
    files |= {f"figures/{name}": png for name, png in report.figures(data).items()}
    store.write_report(files | {"report.html": report.build(data)})
