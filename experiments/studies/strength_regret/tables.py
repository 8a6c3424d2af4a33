"""Tables of the study, from the record alone."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments.common import record, tables
from experiments.studies.strength_regret import coverage, fixed_design, rules
from experiments.studies.strength_regret.networks import PENALTIES
from lagrange_jax.strengths.curves import mean_optimum

__all__ = ["Study", "make_tables", "read_study"]

KINDS = ("l2", "l1", "decoupled")


class Study:
    """Families, their slopes and regrets, computed once.

    Attributes:
      families: by task and penalty.
      slopes: of all sizes, likewise.
      regrets: by task, penalty and rule; the prior is that of the other tasks.
      dips: whether the penalty helps at the largest size.
    """

    def __init__(self, folder: Path):
        self.families = rules.read_families(folder)
        self.slopes = {k: rules.fit_slope(f.curves) for k, f in self.families.items()}
        self.dips = {k: rules.has_dip(f) for k, f in self.families.items()}
        self.regrets = {
            (task, penalty): rules.regrets(
                family,
                rules.prior_without(self.slopes, task, PENALTIES[penalty].kind),
            )
            for (task, penalty), family in self.families.items()
        }

    def percents(self, rule: str, *, dip: bool = True) -> np.ndarray:
        """Regrets of a rule over the families with, or without, a dip."""
        return np.array(
            [
                found[rule].percent if dip else found[rule].of_loss
                for key, found in self.regrets.items()
                if rule in found and self.dips[key] == dip
            ]
        )

    def names(self) -> list[str]:
        """All rules, in order."""
        return list(dict.fromkeys(x for found in self.regrets.values() for x in found))


def read_study(folder: Path) -> Study:
    """Returns what the tables and figures are made of."""
    return Study(folder)


def make_tables(folder: Path, study: Study) -> str:
    """Returns all tables, in Markdown."""
    parts = {
        "Regret of every rule": _summary(study),
        "Regret by task, in % of what the penalty buys": _by_task(study),
        "The exponent of N, by task": _slopes(study),
        "The exponent of N, over tasks": _pooled(study),
        "The same strength for another recipe": _recipes(folder, study),
        "Ridge regression on inputs that stay": _fixed(folder),
        "Coverage of the 95% intervals of fit_power_law": _coverage(folder),
    }
    return "\n\n".join(f"### {k}\n\n{v}" for k, v in parts.items() if v) + "\n"


def _summary(study: Study) -> str:
    header = ["rule", "examples, %", "median regret, %", "its 95% interval"]
    header += ["worst", "at most 5 %", "families", "without a dip: median loss, %"]
    lines = []
    for name in study.names():
        percents = study.percents(name)
        percents = percents[np.isfinite(percents)]
        if not len(percents):
            continue
        compute = [x[name].compute for x in study.regrets.values() if name in x]
        low, high = _interval_of_median(percents)
        flat = study.percents(name, dip=False)
        cells = [f"{np.mean(compute):.0f}", f"{np.median(percents):.1f}"]
        cells += [f"[{low:.1f}, {high:.1f}]", f"{percents.max():.0f}"]
        cells += [f"{(percents <= 5).sum()}", f"{len(percents)}"]
        cells.append(f"{np.nanmedian(flat):.2f}" if len(flat) else "")
        lines.append([name, *cells])
    return tables.markdown(header, lines)


def _interval_of_median(values):
    """Percentile bootstrap over families."""
    random = np.random.default_rng(0)
    drawn = random.choice(values, (2000, len(values)))
    return np.quantile(np.median(drawn, 1), [0.025, 0.975])


def _by_task(study: Study) -> str:
    header = ["task", "penalty", "dip", "gain, % of the loss", *study.names()]
    lines = []
    for key, found in study.regrets.items():
        last = study.families[key].curves.losses[:, -1].mean(1)
        gain = 100 * (last[0] / last.min() - 1)
        cells = [*key, "yes" if study.dips[key] else "no", f"{gain:.1f}"]
        for name in study.names():
            some = found.get(name)
            cells.append(f"{some.percent:.1f} ± {some.half:.1f}" if some else "")
        lines.append(cells)
    return tables.markdown(header, lines)


def _slopes(study: Study) -> str:
    header = ["task", "penalty", "seeds", "all sizes", "smaller half", "larger half"]
    header += ["at lower / upper edge", "best strength by N"]
    lines = []
    for key, family in study.families.items():
        curves, optimum = family.curves, mean_optimum(family.curves)
        half = len(curves.sizes) // 2
        parts = [slice(None), slice(half + 1), slice(half, None)]
        slopes = [_slope(rules.fit_slope(curves, part)) for part in parts]
        edges = f"{optimum.is_low.sum()} / {optimum.is_high.sum()}"
        best = " ".join(f"{x:.2g}" for x in np.exp(optimum.log_strength))
        seeds = str(curves.losses.shape[-1])
        lines.append([*key, seeds, *slopes, edges, best])
    return tables.markdown(header, lines)


def _slope(slope: rules.Slope) -> str:
    return f"{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"


def _pooled(study: Study) -> str:
    header = ["penalty", "tasks", "mean slope", "its 95% interval", "median"]
    header += ["standard deviation over tasks", "-1 excluded", "-1/2 excluded"]
    lines = []
    groups: dict[str, Any] = {x: [x] for x in PENALTIES}
    groups["all coupled l2"] = ["sgd l2", "adam l2"]
    for name, penalties in groups.items():
        values = np.array(
            [
                s.value
                for (_, penalty), s in study.slopes.items()
                if penalty in penalties
            ]
        )
        values = values[np.isfinite(values)]
        if len(values) < 2:
            continue
        low, high = stats.t.interval(
            0.95, len(values) - 1, values.mean(), stats.sem(values)
        )
        cells = [f"{len(values)}", f"{values.mean():.2f}", f"[{low:.2f}, {high:.2f}]"]
        cells += [f"{np.median(values):.2f}", f"{values.std(ddof=1):.2f}"]
        cells += ["no" if low <= x <= high else "yes" for x in (-1.0, -0.5)]
        lines.append([name, *cells])
    return tables.markdown(header, lines)


def _recipes(folder: Path, study: Study) -> str:
    """Best strengths of changed recipes over those of the base."""
    header = ["recipe", "penalty", "predicted factor", "measured factor, by task"]
    names = {row.get("recipe", "base") for row in record.read_rows(folder)} - {"base"}
    lines = []
    for recipe in sorted(names):
        changed = rules.read_families(folder, recipe)
        for penalty in PENALTIES:
            cells = []
            for (task, other), family in changed.items():
                if other != penalty or (task, other) not in study.families:
                    continue
                ratio = _ratio(family.curves, study.families[task, other].curves)
                cells.append(f"{task} {ratio}")
            if cells:
                what, factor = recipe.split()
                kind = PENALTIES[penalty].kind
                predicted = _predicted(what, float(factor), kind)
                lines.append([recipe, penalty, f"{predicted:g}", ", ".join(cells)])
    return tables.markdown(header, lines) if lines else ""


def _predicted(what, factor, kind):
    if kind != "decoupled":
        return 1.0
    return {"batch": factor, "rate": 1 / factor}.get(what, 1.0)


def _ratio(changed, base) -> str:
    """The ratio of the best strengths with its 95% interval, seeds paired."""
    place = list(base.sizes).index(changed.sizes[0])
    num_seeds = min(changed.losses.shape[-1], base.losses.shape[-1])

    def log_ratio(kept):
        pair = [
            curves._replace(
                losses=curves.losses[:, [i]][..., kept], sizes=curves.sizes[[i]]
            )
            for curves, i in ((changed, 0), (base, place))
        ]
        ends = [mean_optimum(x).log_strength[0] for x in pair]
        return ends[0] - ends[1]

    everyone = list(range(num_seeds))
    whole = log_ratio(everyone)
    others = [log_ratio([i for i in everyone if i != j]) for j in everyone]
    half = stats.t.ppf(0.975, num_seeds - 1) * np.sqrt((num_seeds - 1) * np.var(others))
    low, at, high = np.exp([whole - half, whole, whole + half])
    return f"{at:.2g} [{low:.2g}, {high:.2g}]"


def _fixed(folder: Path) -> str:
    arrays = record.read_arrays(folder)
    if "fixed design" not in arrays:
        return ""
    header = ["features, examples, noise"]
    header += [f"{x}: mean (median) excess, %" for x in fixed_design.RULES]
    lines = []
    for problem, found in zip(
        fixed_design.PROBLEMS, arrays["fixed design"], strict=True
    ):
        cells = [f"{100 * x.mean():.1f} ({100 * np.median(x):.1f})" for x in found]
        lines.append([", ".join(f"{x:g}" for x in problem), *cells])
    return tables.markdown(header, lines)


def _coverage(folder: Path) -> str:
    arrays = record.read_arrays(folder)
    if "coverage" not in arrays:
        return ""
    header = ["scatter of the best strengths"]
    header += [f"{n} seeds: slope, intercept" for n in coverage.SEEDS]
    lines = [
        [world, *(f"{slope:.3f}, {intercept:.3f}" for slope, intercept in found)]
        for world, found in zip(coverage.WORLDS, arrays["coverage"], strict=True)
    ]
    return tables.markdown(header, lines)
