"""Every rule's strength at the largest size, and what it loses there.

Each seed in turn is left out: the rule sees the other seeds, and the strength is judged
on the curve of the one left out. The regret is the loss above that of the strength
which is best for the mean of all seeds, in % of what that strength gains over the
smallest.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

import lagrange_jax as lj
from experiments.common import record
from experiments.studies.strength_regret.heads import RULES as HEAD_RULES
from experiments.studies.strength_regret.networks import PENALTIES, strengths_of
from lagrange_jax.strengths import Exponent, LossCurves, choose_without_validation
from lagrange_jax.strengths.curves import dip_test, mean_optimum

__all__ = [
    "Family",
    "Regret",
    "Slope",
    "fit_slope",
    "has_dip",
    "prior_without",
    "read_families",
    "regrets",
]


class Family(NamedTuple):
    """All seeds of one task and penalty.

    Attributes:
      task: its name.
      penalty: its name.
      curves: held-out losses.
      train: training losses `[strengths, sizes, seeds]`.
      norm: norms of all kernels, likewise.
      heads: `[rules, seeds]` strengths of `heads.RULES`, or None.
    """

    task: str
    penalty: str
    curves: LossCurves
    train: np.ndarray
    norm: np.ndarray
    heads: np.ndarray | None


class Slope(NamedTuple):
    """The exponent of N: estimate, 95% interval, and the number of seeds."""

    value: float
    low: float
    high: float


class Regret(NamedTuple):
    """What a rule loses.

    Attributes:
      percent: of the gain of the best strength: mean over seeds.
      half: half of its 95% t-interval.
      of_loss: the same loss in % of the best loss.
      compute: examples seen, in % of a full sweep.
    """

    percent: float
    half: float
    of_loss: float
    compute: float


def read_families(folder: Path, recipe: str = "base") -> dict[tuple[str, str], Family]:
    """Returns what is recorded, by task and penalty; two seeds at least.

    What diverged with every strength on some size is left out.
    """
    arrays, rows = record.read_arrays(folder), record.read_rows(folder)
    found: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        if row.get("recipe") == recipe:
            found.setdefault((row["task"], row["penalty"]), []).append(row)
    families = {}
    for (task, penalty), some in found.items():
        stacked = np.stack([arrays[row["name"]] for row in some], -1).astype(float)
        heads = _stack(arrays, [f"head/{task}/{row['seed']}" for row in some])
        train, losses, norm = stacked
        sizes = np.array(some[0]["sizes"], float)
        if len(some) > 1 and np.isfinite(losses).any((0, 2)).all():
            families[task, penalty] = Family(
                task,
                penalty,
                LossCurves(losses, strengths_of(penalty), sizes),
                train,
                norm,
                heads,
            )
    return families


def _stack(arrays, names) -> np.ndarray | None:
    """What is recorded under these names, or None if one is missing."""
    known = [arrays[name] for name in names if name in arrays]
    return np.stack(known, -1) if len(known) == len(names) else None


def fit_slope(curves: LossCurves, part: slice = slice(None)) -> Slope:
    """The line through the best strengths of mean curves, jackknife over seeds."""
    curves = LossCurves(curves.losses[:, part], curves.strengths, curves.sizes[part])
    num_seeds = curves.losses.shape[-1]
    whole = _line(curves)[0]
    others = np.array([_line(_without(curves, j))[0] for j in range(num_seeds)])
    known = others[np.isfinite(others)]
    variance = known.var() if len(known) > 1 else np.nan
    error = np.sqrt((num_seeds - 1) * variance)
    half = stats.t.ppf(0.975, num_seeds - 1) * error
    return Slope(whole, whole - half, whole + half)


def prior_without(slopes: dict[tuple[str, str], Slope], task: str, kind: str):
    """The prior on the exponent from the slopes of all other tasks of a kind."""
    values = [
        slope.value
        for (other, penalty), slope in slopes.items()
        if other != task and PENALTIES[penalty].kind == kind
    ]
    values = [x for x in values if np.isfinite(x)]
    if len(values) < 3:
        return None
    return Exponent(float(np.median(values)), float(np.std(values, ddof=1)))


def regrets(family: Family, prior: Exponent | None) -> dict[str, Regret]:
    """Regrets of every rule at the largest size.

    Args:
      family: the recorded curves.
      prior: on the exponent; None takes the library's.

    Returns:
      By rule, its `Regret`; a rule that needs a smaller size than there is, is left
      out.
    """
    curves, last = family.curves, family.curves.losses[:, -1]
    grid, num_seeds = np.log(curves.strengths), last.shape[1]
    best = grid[np.nanargmin(last.mean(1))]
    # Where no penalty is best there is nothing to regret a share of.
    gain = float(last[0].mean() - last.mean(1).min()) or float("nan")
    found = {}
    for name, (rule, compute) in _rules(family, prior).items():
        losses = []
        for j in range(num_seeds):
            with np.errstate(divide="ignore"):  # no penalty: the end of the grid
                at = np.clip(np.log(rule(j)), grid[0], grid[-1])
            chosen, least = np.interp([at, best], grid, last[:, j])
            losses.append(chosen - least)
        mean, error = np.mean(losses), stats.sem(losses)
        half = stats.t.ppf(0.975, num_seeds - 1) * error
        found[name] = Regret(
            float(100 * mean / gain),
            100 * half / gain,
            100 * mean / last.mean(1).min(),
            compute,
        )
    return found


def has_dip(family: Family) -> bool:
    """Whether some strength beats the smallest at the largest size."""
    return dip_test(family.curves.losses[:, -1])[1] < 0.05


Rules = dict[str, tuple[Callable[[int], float], float]]


def _rules(family: Family, prior) -> Rules:
    """`rule(seed left out) -> strength` and the share of examples seen, in %."""
    curves, sizes = family.curves, family.curves.sizes
    kind, count = PENALTIES[family.penalty].kind, len(sizes)

    def extrapolated(part, free=False, advised=False):
        def rule(j):
            some = _without(_sizes(curves, part), j)
            if free:
                slope, intercept = _line(some)
                return np.exp(intercept + slope * np.log(sizes[-1]))
            found = lj.extrapolate_strength(
                some, sizes[-1], penalty=kind, exponent=prior
            )
            if advised:
                return found.strength
            # What the law says where the advice is to leave the penalty out.
            return law_strength(some, sizes[-1], kind, prior)

        share = 100 * sizes[part].sum() / sizes[-1]
        return rule, share

    def scaled(power, back):
        def rule(j):
            some = _without(_sizes(curves, [count - 1 - back]), j)
            at = np.exp(mean_optimum(some).log_strength[0])
            return at * (sizes[-1] / some.sizes[0]) ** power

        return rule, 100 * sizes[count - 1 - back] / sizes[-1]

    rules: Rules = {"full sweep": scaled(0.0, 0)}
    if count > 2:
        near = [count - 3]
        rules["law, one sweep at N/4"] = extrapolated(near)
        rules["tool (asks first), N/4"] = extrapolated(near, advised=True)
        rules["1/N from N/4"] = scaled(-1.0, 2)
        rules["N^-1/2 from N/4"] = scaled(-0.5, 2)
        rules["unscaled from N/4"] = scaled(0.0, 2)
    if count > 3:
        rules["law, one sweep at N/8"] = extrapolated([count - 4])
    small = list(range(count - 3))
    if len(small) > 1:
        rules["law, all up to N/8"] = extrapolated(small)
        rules["free fit, all up to N/8"] = extrapolated(small, free=True)
    default = PENALTIES[family.penalty].default
    rules["usual default"] = (lambda j: default), 0.0
    rules["smallest"] = (lambda j: curves.strengths[0]), 0.0
    rules["Twin, no validation"] = (lambda j: _twin(family, j)), 100.0
    if family.heads is not None and kind == "l2":
        for name, chosen in zip(HEAD_RULES, family.heads, strict=True):
            rules[f"{name} of the head"] = (lambda j, x=chosen: x[j]), 0.0
    return rules


def law_strength(curves, num_examples, kind, prior) -> float:
    """The extrapolated strength, a dip or none."""
    lifted = curves.losses.copy()
    lifted[0] = np.nanmax(np.where(np.isfinite(lifted), lifted, np.nan)) + 1
    asked = LossCurves(
        np.concatenate([lifted[:1], curves.losses]),
        np.concatenate([[0.0], curves.strengths]),
        curves.sizes,
    )
    found = lj.extrapolate_strength(asked, num_examples, penalty=kind, exponent=prior)
    return found.strength


def _twin(family: Family, j: int) -> float:
    """Twin on the seed itself: it needs no other."""
    axes = {"strength": family.curves.strengths}
    choice = choose_without_validation(
        lj.GridResult(axes, None),
        train_loss=family.train[:, -1, j],
        norm=family.norm[:, -1, j],
    )
    return float(choice.values["strength"])


def _without(curves: LossCurves, j: int) -> LossCurves:
    return curves._replace(losses=np.delete(curves.losses, j, -1))


def _sizes(curves: LossCurves, part) -> LossCurves:
    return LossCurves(curves.losses[:, part], curves.strengths, curves.sizes[part])


def _line(curves: LossCurves) -> np.ndarray:
    optimum = mean_optimum(curves)
    known = ~(optimum.is_low | optimum.is_high)
    if known.sum() < 2:
        return np.full(2, np.nan)
    return np.polyfit(np.log(curves.sizes[known]), optimum.log_strength[known], 1)
