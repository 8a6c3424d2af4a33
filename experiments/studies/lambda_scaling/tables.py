"""Tables of the study, from the record alone."""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from experiments.common.tables import markdown
from experiments.studies.lambda_scaling.fixed_layer import (
    LOGISTIC_STRENGTHS,
    RIDGE_STRENGTHS,
)
from experiments.studies.lambda_scaling.laws import (
    RULES,
    Curves,
    Law,
    fit_choice,
    fit_law,
    local_slopes,
    paired_difference,
)
from lagrange_jax.strengths import BestStrength

__all__ = ["THESIS", "fixed_laws", "make_tables", "paired_heads", "predicted_strength"]

THESIS = {
    "first": "-0.685",
    "scale 0.1": "-1.31",
    "scale 1": "-0.79",
    "scale 10": "-0.11",
    "l1": "near that of L2",
}
"""Slopes that the thesis reports, by case of "protocol"."""

Record = dict[str, np.ndarray]


def _markdown(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"### {title}\n\n{markdown(header, [*rows])}"


def _slope(law: Law) -> str:
    low, high = law.interval
    return f"{law.slope:.2f} [{low:.2f}, {high:.2f}]"


def _laws(curves: Curves) -> list[str]:
    """Slopes by every rule, and how many curves were censored."""
    laws = [fit_law(curves, rule) for rule in RULES]
    count = laws[0]
    edges = f"{count.num_low} / {count.num_high} of {count.num_curves}"
    return [*map(_slope, laws), edges]


LAWS = ["thesis's rule", "seeds", "mean curve", "at lower / upper edge"]


def _protocol(found: dict[str, Curves]) -> str:
    rows = [
        [name, thesis, *_laws(found[f"protocol/{name}"])]
        for name, thesis in THESIS.items()
        if f"protocol/{name}" in found
    ]
    rows += [
        [f"{name.removeprefix('long/')}, ten times the epochs", "", *_laws(curves)]
        for name, curves in found.items()
        if name.startswith("long/")
    ]
    header = ["case", "thesis", *LAWS]
    return _markdown("Slopes under the thesis's protocol", header, rows)


def _readings(found: dict[str, Curves]) -> str:
    rows = []
    for name, curves in found.items():
        if name.startswith("reading/"):
            slope, *_, edges = _laws(curves)
            label = name.removeprefix("reading/")
            rows.append([label, slope, edges, _numbers(curves)])
    header = ["reading (and factor on the initial variance)", LAWS[0], LAWS[-1]]
    header.append("best at smallest, middle, largest N")
    return _markdown("Slopes of the readings", header, rows)


def _numbers(curves: Curves) -> str:
    best = curves.strengths[curves.validation.mean(-1).argmin(0)]
    return ", ".join(f"{best[i]:.2g}" for i in (0, len(best) // 2, -1))


def fixed_laws(arrays: Record, sizes: np.ndarray) -> dict[str, tuple[Curves, Law]]:
    """Returns curves and mean-curve law of what is solved instead of trained."""
    grids = {
        "ridge": RIDGE_STRENGTHS,
        "logistic": LOGISTIC_STRENGTHS,
        "linear": LOGISTIC_STRENGTHS,
    }
    curves = {
        name: Curves(grid, sizes, *2 * [arrays[f"fixed/{name}"].astype(float)])
        for name, grid in grids.items()
        if f"fixed/{name}" in arrays
    }
    return {name: (x, fit_law(x, "mean curve")) for name, x in curves.items()}


def _choice(arrays: Record, name: str, sizes: np.ndarray) -> Law:
    edge = arrays[f"fixed/{name}_edge"] != 0
    return fit_choice(
        sizes, BestStrength(*map(jnp.asarray, (arrays[f"fixed/{name}"], edge)))
    )


def _fixed(arrays: Record, sizes: np.ndarray) -> str:
    labels = {
        "ridge": "best for ridge regression of the head, tanh layer",
        "logistic": "best for the head of cross-entropy, tanh layer",
        "linear": "best for a network of linear units, both layers penalised",
    }
    rows = [
        [labels[name], *_laws(curves)]
        for name, (curves, _) in fixed_laws(arrays, sizes).items()
    ]
    for name, losses in arrays.items():
        if name.startswith("fixed ") and name.endswith("/ridge"):
            some = Curves(RIDGE_STRENGTHS, sizes, *2 * [losses.astype(float)])
            layer = name.split("/")[0].removeprefix("fixed ")
            label = f"best for ridge regression of the head, {layer} layer"
            rows.append([label, *_laws(some)])
    for name in ("evidence", "leave_one_out"):
        edge = arrays[f"fixed/{name}_edge"]
        edges = f"{(edge == -1).sum()} / {(edge == 1).sum()} of {edge.size}"
        law = _slope(_choice(arrays, name, sizes))
        rows.append([f"chosen by {name.replace('_', ' ')}", "", law, "", edges])
    title = "Slopes where the optimum is exact: a fixed random hidden layer"
    return _markdown(title, ["strength", *LAWS], rows)


def predicted_strength(
    arrays: Record, layer: str | None = None
) -> dict[str, np.ndarray]:
    r"""Returns the strengths `[sizes, seeds]` that the evidence predicts, by loss.

    For targets -1 and 1 with noise variance $\sigma^2$ about the line of least
    squares, linear discriminant analysis has the logit $2 / \sigma^2$ times that
    line. The same prior on larger weights, beside a loss with noise precision 1
    instead of $1 / \sigma^2$, is the strength of least squares times $\sigma^2 / 8$.

    Args:
      arrays: the record.
      layer: "activation/divisor" of the hidden layer; None for that of the first of
        `converged_networks`.

    Returns:
      The strengths; empty where the layer is not recorded.
    """
    prefix = "fixed" if layer is None else f"fixed {layer}"
    if f"{prefix}/evidence" not in arrays:
        return {}
    strength = arrays[f"{prefix}/evidence"]
    return {"ridge": strength, "logistic": strength * arrays[f"{prefix}/noise"] / 8}


def _excess(curves: Curves, strengths: np.ndarray) -> np.ndarray:
    """Mean loss at given strengths `[sizes, seeds]` over the best of the mean, %."""
    grid, excess = np.log(curves.strengths), []
    for i, chosen in enumerate(np.log(strengths)):
        losses = curves.validation[:, i].T
        seeds = range(min(len(losses), len(chosen)))
        at = np.mean([np.interp(chosen[j], grid, losses[j]) for j in seeds])
        least = losses[: len(seeds)].mean(0).min()
        excess.append(100 * (at / least - 1))
    return np.array(excess)


def _prediction(found, arrays: Record, sizes: np.ndarray, first: str) -> str:
    """How near the evidence before training is to the best strength after it.

    That of the network's own layer: a logistic layer's evidence says nothing of a
    network of tanh units, nor the other way round.
    """
    rows = []
    targets = {
        f"{name} head on the fixed {first} layer": (
            predicted_strength(arrays).get(name),
            *pair,
        )
        for name, pair in fixed_laws(arrays, sizes).items()
        if name in predicted_strength(arrays)
    }
    for name, curves in found.items():
        if name.startswith("converged/") and len(name.split("/")) == 5:
            label = name.removeprefix("converged/")
            layer = "/".join(label.split("/")[:2])
            own = predicted_strength(arrays, None if layer == first else layer)
            law = fit_law(curves, "mean curve")
            targets[label] = (own.get("logistic"), curves, law)
    for name, (predicted, curves, law) in targets.items():
        if predicted is None:
            continue
        where = np.isin(sizes, curves.sizes)
        some = predicted[where]
        if len(some) < len(curves.sizes):
            continue
        ratio = np.exp(np.log(some).mean(1)) / law.strength
        if curves.validation.shape[-1] != some.shape[1]:
            # Networks of other seeds: the typical prediction of each size.
            some = np.repeat(np.exp(np.log(some).mean(1, keepdims=True)), 99, axis=1)
        excess, none = _excess(curves, some), _excess(curves, 0 * some + 1e-6)
        cells = [" ".join(f"{x:.2g}" for x in y) for y in (ratio, excess, none)]
        rows.append([name, " ".join(map(str, curves.sizes)), *cells])
    header = ["trained", "N", "predicted / best", "excess loss, %"]
    header.append("the same with the smallest strength, %")
    return _markdown("The evidence before training against the optimum", header, rows)


def _local(found: dict[str, Curves], arrays: Record, sizes: np.ndarray) -> str:
    """Slopes of the smaller and of the larger half of the sizes."""
    curves = {x: y for x, y in found.items() if x.split("/")[0] in STRAIGHT}
    curves |= {
        f"fixed/{name}": pair[0] for name, pair in fixed_laws(arrays, sizes).items()
    }
    rows = []
    for name, some in curves.items():
        split = int(some.sizes[len(some.sizes) // 2])
        for rule in ("thesis", "mean curve"):
            *halves, bend = local_slopes(some, rule, split)
            cells = [_slope(law) for law in halves]
            rows.append([name, rule, str(split), *cells, f"{bend:.2f}"])
    header = ["case", "rule", "split at N", "up to there", "from there"]
    return _markdown(
        "Local slopes: the law is not straight",
        [*header, "quadratic coefficient"],
        rows,
    )


STRAIGHT = ("protocol", "long", "converged")


def _paired(found: dict[str, Curves]) -> str:
    """Differences of slopes of cases that share their seeds."""
    pairs = {
        "L1 minus L2": ("protocol/l1", "protocol/scale 1"),
        "variance x 10 minus x 0.1": ("protocol/scale 10", "protocol/scale 0.1"),
        "x 10, ten times the epochs, minus the protocol's": (
            "long/scale 10",
            "protocol/scale 10",
        ),
    }
    rows = []
    for label, names in pairs.items():
        if not all(name in found for name in names):
            continue
        first, second = (found[name] for name in names)
        seeds = min(x.validation.shape[-1] for x in (first, second))
        first, second = (
            x._replace(train=x.train[..., :seeds], validation=x.validation[..., :seeds])
            for x in (first, second)
        )
        laws = [
            paired_difference(first, second, rule) for rule in ("thesis", "mean curve")
        ]
        rows.append([label, str(seeds), *map(_slope, laws)])
    header = ["difference of slopes", "seeds", "thesis's rule", "mean curve"]
    return _markdown("Paired by seed", header, rows)


def _converged(found: dict[str, Curves]) -> str:
    rows = []
    for name, curves in found.items():
        if name.startswith("converged/"):
            best = fit_law(curves, "mean curve").strength
            cells = " ".join(f"{x:.2g}" for x in best)
            rows.append([name.removeprefix("converged/"), *_laws(curves), cells])
    header = ["network", *LAWS, "best of the mean curve by N"]
    return _markdown("Slopes of converged networks", header, rows)


def paired_heads(found: dict[str, Curves]) -> dict[str, Curves]:
    """Returns solved and random heads, "head scale", on the same seeds."""
    solved = {x[6:]: y for x, y in found.items() if x.startswith("heads/")}
    seeds = min(x.validation.shape[-1] for x in solved.values())
    random = {
        name.replace("protocol/scale", "random"): curves._replace(
            train=curves.train[..., :seeds], validation=curves.validation[..., :seeds]
        )
        for name, curves in found.items()
        if name.startswith("protocol/scale")
    }
    return {**random, **solved}


def _heads(found: dict[str, Curves]) -> str:
    rows = []
    for name, curves in paired_heads(found).items():
        law = fit_law(curves, "mean curve")
        is_inside = np.isfinite(law.strength)
        inside = np.log(law.strength[is_inside])
        typical = np.exp(inside.mean()) if inside.size else np.nan
        mean = curves.validation.mean(-1)
        losses = (mean.min(0).mean(), mean[0].mean())
        cells = [f"{typical:.2g}", *(f"{x:.4f}" for x in losses)]
        rows.append([name, *_laws(curves), *cells])
    header = ["head and factor on the initial variance", *LAWS]
    header += ["geometric mean of best", "validation loss at best"]
    header.append("at the smallest strength")
    return _markdown("Solved heads against random ones, same seeds", header, rows)


def make_tables(found: dict[str, Curves], arrays: Record, config) -> str:
    """Returns all tables for which there are results, in Markdown."""
    parts = {name.split("/")[0] for name in found}
    sizes = np.array(config.fixed_sizes)
    tables = []
    if "protocol" in parts:
        tables.append(_protocol(found))
    if "reading" in parts:
        tables.append(_readings(found))
    if "fixed/ridge" in arrays:
        tables.append(_fixed(arrays, sizes))
    if "converged" in parts:
        tables.append(_converged(found))
    if "fixed/ridge" in arrays:
        first = "/".join(config.converged_networks[0].split("/")[:2])
        tables.append(_prediction(found, arrays, sizes, first))
    if "heads" in parts:
        tables.append(_heads(found))
    tables += [_local(found, arrays, sizes), _paired(found)]
    return "\n\n".join(tables) + "\n"
