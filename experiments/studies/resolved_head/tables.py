"""Who is first, and who ends lowest: from the record alone."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common import record
from experiments.common.curves import epochs_to
from experiments.common.tables import markdown
from experiments.studies.resolved_head.problems import PROBLEMS, SQUARED
from experiments.studies.resolved_head.training import BASELINES, STARTS
from lagrange_jax.plots import mean_interval

__all__ = [
    "Curves",
    "Verdict",
    "best_rate",
    "make_table",
    "read_curves",
    "read_verdicts",
]

TIME_GOAL = 0.8
"""The share of the baseline's time that counts as faster."""


class Curves(NamedTuple):
    """All networks of one arm.

    Attributes:
      by_rate: validation loss `[m]` by learning rate and seed.
      interval: steps between measurements.
    """

    by_rate: dict[float, dict[int, np.ndarray]]
    interval: int


class Verdict(NamedTuple):
    """A re-solved head against the best baseline, seed by seed.

    Attributes:
      problem: its name.
      baseline: the arm, chosen on the tuning seeds.
      baseline_rate: its learning rate, chosen there too.
      arm: the re-solved arm.
      rate: its learning rate.
      cost: time of its step over that of the baseline's.
      time: `[seeds]` time to the baseline's best validation loss, over the baseline's
        own; infinite where it is not reached.
      steps: `[seeds]` the same in steps.
      loss: `[seeds]` its best validation loss over that of the baseline.
      final: `[seeds]` the same of the losses after the last step.
    """

    problem: str
    baseline: str
    baseline_rate: float
    arm: str
    rate: float
    cost: float
    time: np.ndarray
    steps: np.ndarray
    loss: np.ndarray
    final: np.ndarray


def read_curves(folder: Path) -> dict[str, dict[str, Curves]]:
    """Returns the curves by problem and arm."""
    arrays = record.read_arrays(folder)
    found: dict[str, dict[str, Curves]] = defaultdict(dict)
    for row in record.read_rows(folder):
        if "arm" not in row:
            continue
        arms = found[row["problem"]]
        curves = arms.setdefault(row["arm"], Curves(defaultdict(dict), row["steps"]))
        values = arrays[f"{row['name']}/validation"].astype(float)
        values = np.where(np.isfinite(values), values, np.inf)
        for rate, of_rate in zip(row["rates"], values, strict=True):
            curves.by_rate[rate] |= dict(zip(row["seeds"], of_rate, strict=True))
    return found


def _score(curves: dict[int, np.ndarray], seeds: Sequence[int]) -> float:
    """Mean logarithm of the lowest loss; infinite where a network never had one."""
    return float(np.mean([np.log(curves[s].min()) for s in seeds if s in curves]))


def _choose(arm: Curves, seeds: Sequence[int]) -> tuple[float, float]:
    """Returns the score of the best rate, and that rate."""
    known = {r: x for r, x in arm.by_rate.items() if {*seeds} & {*x}}
    return min((_score(x, seeds), rate) for rate, x in known.items())


def best_rate(folder: Path, problem: str, arm: str, seeds: Sequence[int]) -> float:
    """Returns the rate of the lowest validation loss on the tuning seeds."""
    return _choose(read_curves(folder)[problem][arm], seeds)[1]


def _tuning(config: dict, problem: str) -> list[int]:
    side_by_side = PROBLEMS[problem]().in_parallel
    return config["tuning_seeds" if side_by_side else "windows_tuning_seeds"]


def read_verdicts(
    folder: Path, *, baselines: Sequence[str] = BASELINES, every_arm: bool = False
) -> list[Verdict]:
    """Returns a verdict a problem, on the arm that is best on the tuning seeds.

    Args:
      folder: the run folder.
      baselines: the arms that the best baseline is chosen from.
      every_arm: whether to return one for each re-solved arm instead.
    """
    config, rows = record.read_config(folder), record.read_rows(folder)
    costs = {row["problem"]: row["cost"] for row in rows if "cost" in row}
    verdicts = []
    for problem, arms in read_curves(folder).items():
        seeds = _tuning(config, problem)
        tuned = {name: _choose(arm, seeds) for name, arm in arms.items()}
        usable = [name for name in tuned if name in baselines]
        resolved = [name for name in tuned if name not in BASELINES]
        if not usable or not resolved:
            continue
        baseline = min(usable, key=lambda name: tuned[name])
        chosen = resolved if every_arm else [min(resolved, key=lambda x: tuned[x])]
        for arm in chosen:
            pair = ((baseline, tuned[baseline][1]), (arm, tuned[arm][1]))
            verdict = _compare(problem, arms, pair, config["seeds"], costs)
            verdicts += [verdict] if len(verdict.loss) else []
    return verdicts


def _compare(problem, arms, pair, seeds, costs) -> Verdict:
    (baseline, baseline_rate), (arm, rate) = pair
    ours, theirs = arms[arm].by_rate[rate], arms[baseline].by_rate[baseline_rate]
    cost = costs.get(PROBLEMS[problem]().cost_of or problem, {}).get(arm, np.nan)
    steps, loss, final = [], [], []
    for seed in seeds:
        if seed not in ours or seed not in theirs:
            continue
        mine, other = ours[seed], theirs[seed]
        points, target = np.arange(len(other)), other.min()
        reached = [epochs_to(target, points, x) for x in (mine, other)]
        # Half an interval at least: a best loss before the first step divides by it.
        steps.append(np.divide(*np.maximum(reached, 0.5)))
        loss.append(mine.min() / target)
        final.append(mine[-1] / other[-1])
    steps = np.array(steps)
    times = cost * steps
    return Verdict(
        problem, baseline, baseline_rate, arm, rate, cost, times, steps,
        np.array(loss), np.array(final),
    )  # fmt: skip


def _ratio(values: np.ndarray) -> str:
    """Geometric mean and 95% t-interval of ratios; how many are infinite."""
    missed = int(np.sum(~np.isfinite(values)))
    if missed:
        return f"not reached ({missed} of {len(values)})"
    if len(values) < 3:
        return " / ".join(f"{x:.2f}" for x in values)
    low, middle, high = ratio_interval(values)
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def ratio_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns lower end, geometric mean and upper end of the 95% t-interval."""
    mean, half = map(float, mean_interval(np.log(values)))
    return float(np.exp(mean - half)), float(np.exp(mean)), float(np.exp(mean + half))


def is_faster(verdict: Verdict) -> bool:
    """Whether the target is reached on all seeds, in 0.8 of the time on average."""
    logs = np.log(verdict.time)
    return bool(np.isfinite(logs).all() and logs.mean() <= np.log(TIME_GOAL))


def tell_apart(ratios: np.ndarray) -> str:
    """Returns "lower" or "higher" where the interval leaves out one, or "".

    A network that diverged is higher.
    """
    if not np.isfinite(ratios).all():
        return "higher"
    if len(ratios) < 3:
        return ""
    low, _, high = ratio_interval(ratios)
    return "lower" if high < 1 else "higher" if low > 1 else ""


def _lines(verdicts: Sequence[Verdict]) -> list[list[str]]:
    return [
        [
            v.problem,
            f"{v.baseline}, {v.baseline_rate:g}",
            f"{v.arm}; {v.rate:g}",
            f"{v.cost:.2f}",
            _ratio(v.steps),
            _ratio(v.time),
            _ratio(v.loss),
            _ratio(v.final),
            "yes" if is_faster(v) else "no",
            tell_apart(v.loss),
            tell_apart(v.final),
        ]
        for v in verdicts
    ]


HEADER = [
    *("problem", "best baseline, rate", "re-solved head; rate", "cost of a step"),
    *("steps to the baseline's best", "time to it", "best validation loss"),
    *("last validation loss", "time ≤ 0.8", "best loss is", "last loss is"),
]


def _arm_table(folder: Path) -> str:
    """Lowest validation loss of every arm at its own best rate, all problems."""
    config, lines = record.read_config(folder), []
    for problem, arms in read_curves(folder).items():
        seeds = _tuning(config, problem)
        for name, arm in arms.items():
            rate = _choose(arm, seeds)[1]
            rates = sorted(arm.by_rate)
            edge = " (edge)" if rate in (rates[0], rates[-1]) else ""
            found = [arm.by_rate[rate][s] for s in config["seeds"]
                     if s in arm.by_rate[rate]]  # fmt: skip
            if not found:
                continue
            cells = [_size(problem, [x.min() for x in found])]
            cells += [_size(problem, [x[-1] for x in found])]
            lines.append([problem, name, f"{rate:g}{edge}", *cells])
    header = [
        "problem",
        "arm",
        "rate",
        "lowest validation RMSE or cross-entropy",
        "last",
    ]
    return markdown(header, lines)


def _size(name: str, losses) -> str:
    if not np.isfinite(losses).all():
        return "diverged"
    problem = PROBLEMS[name]()
    root = 0.5 if problem.loss == SQUARED else 1
    low, middle, high = ratio_interval(problem.unit * np.power(losses, root))
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def make_table(folder: Path) -> str:
    """Returns the tables as Markdown.

    Ratios are re-solved head over best baseline, paired by seed: geometric means and
    95% t-intervals. Arm and learning rate of both sides are those that do best on the
    tuning seeds, which the ratios do not see.
    """
    by_start = read_verdicts(folder, baselines=STARTS)
    by_all = read_verdicts(folder)
    parts = [
        "**Against Kaiming, zero head and solved once.** " + _tally(by_start),
        markdown(HEADER, _lines(by_start)),
        "**Against these and a penalised head.** " + _tally(by_all),
        markdown(HEADER, _lines(by_all)),
        "**Every re-solved head against the best of all four**",
        markdown(HEADER, _lines(read_verdicts(folder, every_arm=True))),
        "**Every arm at its own best rate**",
        _arm_table(folder),
    ]
    return "\n\n".join(parts) + "\n"


def _tally(verdicts: Sequence[Verdict]) -> str:
    faster = sum(map(is_faster, verdicts))
    best, last = (
        Counter(tell_apart(getattr(v, field)) for v in verdicts)
        for field in ("loss", "final")
    )
    return (
        f"Of {len(verdicts)} problems: at most 0.8 of the time on {faster}; best loss "
        f"lower on {best['lower']}, higher on {best['higher']}; last loss lower on "
        f"{last['lower']}, higher on {last['higher']}."
    )
