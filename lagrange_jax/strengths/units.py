r"""One strength in the units of many tools.

The hub is this library's strength s of a mean loss over N examples,

$$ \frac1N \sum_n \ell_n + \tfrac s2 \|w\|^2 \quad\text{or}\quad
   \frac1N \sum_n \ell_n + s \|w\|_1, $$

with $\ell$ the squared error $(f - t)^2$, not half of it, or the cross-entropy. Units
of an *objective* state the same minimum. Units of a *decay* state the same updates
$w \leftarrow (1 - \eta \lambda) w - \dots$: only for plain gradient descent are the
two the same thing, $\lambda = s$.

References:
  I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
  X. Wang and L. Aitchison, "How to set AdamW's weight decay as you scale model and
  dataset size", ICML 2025.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jax.core import Tracer

from lagrange_jax._checks import require_kind, require_real
from lagrange_jax.ridge.path import norm_of_strength, strength_of_norm
from lagrange_jax.statistics.spectrum import Spectrum

__all__ = ["Unit", "convert_strength"]

Unit = Literal[
    "mean_loss",
    "summed_loss",
    "sklearn_C",
    "sklearn_Ridge_alpha",
    "sklearn_Lasso_alpha",
    "sklearn_MLP_alpha",
    "glmnet_lambda",
    "multiplier",
    "head_norm_sq",
    "decay",
    "raw_decay",
    "timescale_steps",
    "timescale_epochs",
]
"""Names of the units; `convert_strength` says what each is."""

Loss = Literal["squared_error", "cross_entropy"]


class _Setting(NamedTuple):
    """What a conversion may need."""

    penalty: str
    loss: str
    num_examples: Any
    batch_size: Any
    learning_rate: Any
    spectrum: Any


def convert_strength(
    value: Any,
    from_: Unit,
    to: Unit,
    *,
    penalty: Literal["l2", "l1"] = "l2",
    loss: Loss = "cross_entropy",
    num_examples: Any = None,
    batch_size: Any = None,
    learning_rate: Any = None,
    spectrum: Spectrum | None = None,
    optimizer: Literal["sgd"] | None = None,
) -> Any:
    r"""Converts a strength from one unit to another.

    | unit | formula, s the strength of the mean loss |
    | --- | --- |
    | `"mean_loss"` | s: `add_l2_penalty`, `add_l1_penalty`, PyTorch's `SGD` |
    | `"summed_loss"` | s N |
    | `"sklearn_C"` | 1 / (s N): `LogisticRegression` |
    | `"sklearn_Ridge_alpha"` | s N / 2: `Ridge` |
    | `"sklearn_Lasso_alpha"` | s / 2 for L1: `Lasso` |
    | `"sklearn_MLP_alpha"` | s N: `MLPClassifier`; s N / 2: `MLPRegressor` |
    | `"glmnet_lambda"` | s for cross-entropy, s / 2 for squared error |
    | `"multiplier"` | s / 2: the KKT multiplier of a head of least squares |
    | `"head_norm_sq"` | the squared norm of the ridge head at s, by its spectrum |
    | `"decay"` | $\lambda$: Optax's and PyTorch's `adamw`, multiplied by the rate |
    | `"raw_decay"` | $\eta \lambda$: not multiplied by the rate |
    | `"timescale_steps"` | $1 / (\eta \lambda)$ |
    | `"timescale_epochs"` | $B / (\eta \lambda N)$ |

    glmnet's gaussian family standardises the targets: its lambda here is that of
    targets with standard deviation one. In scikit-learn the penalised squared error
    of a regressor with several outputs is averaged over them by `MLPRegressor` and
    summed by `Ridge`; the former is taken for one output.

    Args:
      value: the strength, any array of them, traced or not.
      from_: its unit.
      to: the wanted unit.
      penalty: "l2" or "l1".
      loss: "squared_error" or "cross_entropy", for the units that depend on it.
      num_examples: N, of the data the model is fitted to.
      batch_size: B.
      learning_rate: $\eta$.
      spectrum: of the head's features and targets, for `"head_norm_sq"`; one number
        for all outputs together.
      optimizer: "sgd" says that the optimiser is plain gradient descent, so that an
        objective and a decay may be converted into each other.

    Returns:
      The strength in the wanted unit.

    Raises:
      TypeError: if a value is not a number, or an array of numbers.
      ValueError: if a unit is unknown, does not exist for the penalty or the loss,
        needs something that is not given, a known value is not positive, or an
        objective and a decay are to be converted for another optimiser than "sgd".

    Example:
      >>> C = lj.convert_strength(
      ...     1e-3, "mean_loss", "sklearn_C", num_examples=500
      ... )
      >>> print(C)
      2.0
    """
    _check(from_, to, penalty, loss, optimizer)
    setting = _Setting(penalty, loss, num_examples, batch_size, learning_rate, spectrum)
    for name in ("num_examples", "batch_size", "learning_rate"):
        if getattr(setting, name) is not None:
            _require_positive(name, getattr(setting, name))
    _require_positive("value", value)
    if from_ == to:
        return value
    return _to(to, _from(from_, value, setting), setting)


def _check(from_, to, penalty, loss, optimizer):
    options = {
        "from_": (from_, get_args(Unit)),
        "to": (to, get_args(Unit)),
        "penalty": (penalty, ("l2", "l1")),
        "loss": (loss, get_args(Loss)),
        "optimizer": (optimizer, ("sgd", None)),
    }
    for name, (value, allowed) in options.items():
        if value not in allowed:
            raise ValueError(f"expected {name} as one of {allowed}; got {value!r}.")
    if (from_ in DECAYS) != (to in DECAYS) and optimizer != "sgd":
        raise ValueError(
            f"{from_} is of an objective and {to} of a decay, or the other way round. "
            "They are the same for plain gradient descent only, which optimizer='sgd' "
            "says; under Adam no decay has the minimum of a penalty. Sweep it."
        )
    for unit in (from_, to):
        if penalty == "l1" and unit in (L2_ONLY | DECAYS):
            raise ValueError(f"{unit} is a unit of L2; got penalty='l1'.")
        if penalty == "l2" and unit == "sklearn_Lasso_alpha":
            raise ValueError(f"{unit} is a unit of L1; got penalty='l2'.")
        if unit in LOSSES and loss != LOSSES[unit]:
            raise ValueError(
                f"{unit} is a unit of loss={LOSSES[unit]!r}; got {loss!r}."
            )


DECAYS = {"decay", "raw_decay", "timescale_steps", "timescale_epochs"}
L2_ONLY = {"sklearn_Ridge_alpha", "sklearn_MLP_alpha", "multiplier", "head_norm_sq"}
LOSSES = {
    "sklearn_C": "cross_entropy",
    "sklearn_Ridge_alpha": "squared_error",
    "sklearn_Lasso_alpha": "squared_error",
    "multiplier": "squared_error",
    "head_norm_sq": "squared_error",
}
INVERSE = {"sklearn_C", "timescale_steps", "timescale_epochs"}
"""Units that are a factor over the strength, not times it."""


def _factor(unit: str, setting: _Setting) -> Any:
    """What the strength is multiplied by in this unit, or the inverse of it."""
    half = 0.5 if setting.loss == "squared_error" else 1.0
    if unit in ("summed_loss", "sklearn_C"):
        return _given("num_examples", unit, setting)
    if unit in ("sklearn_Ridge_alpha", "sklearn_MLP_alpha"):
        return half * _given("num_examples", unit, setting)
    if unit in ("sklearn_Lasso_alpha", "glmnet_lambda", "multiplier"):
        return half
    if unit in ("raw_decay", "timescale_steps"):
        return _given("learning_rate", unit, setting)
    if unit == "timescale_epochs":
        names = ("learning_rate", "num_examples", "batch_size")
        rate, examples, batch = (_given(name, unit, setting) for name in names)
        return rate * examples / batch
    return 1.0  # mean_loss, decay


def _from(unit, value, setting):
    if unit == "head_norm_sq":
        spectrum = _given("spectrum", unit, setting)
        require_kind("spectrum", spectrum, Spectrum)
        return strength_of_norm(spectrum, value)
    if unit in INVERSE:
        return 1 / (value * _factor(unit, setting))
    return value / _factor(unit, setting)


def _to(unit, strength, setting):
    if unit == "head_norm_sq":
        spectrum = _given("spectrum", unit, setting)
        require_kind("spectrum", spectrum, Spectrum)
        return norm_of_strength(spectrum, strength).sum(-1)
    if unit in INVERSE:
        return 1 / (strength * _factor(unit, setting))
    return strength * _factor(unit, setting)


def _given(name, unit, setting):
    value = getattr(setting, name)
    if value is None:
        raise ValueError(f"expected {name} for the unit {unit}.")
    return value


def _require_positive(name, value):
    require_real(name, value)
    if not isinstance(value, Tracer) and not (np.asarray(value) > 0).all():
        raise ValueError(f"expected {name} as positive numbers; got {value!r}.")
