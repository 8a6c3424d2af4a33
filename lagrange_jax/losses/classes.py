r"""Cross-entropy: one class of k (softmax), or each of k labels or not (sigmoid).

.. math:: \ell = -\sum_j u_j \log \mathrm{softmax}(z)_j, \qquad
          \ell = \sum_j v_j \log(1 + e^{z_j}) - u_j z_j

with targets $u_j = w_j t_j$, and $v_j = w_j (p_j t_j + 1 - t_j)$, $u_j = w_j p_j t_j$
for the second: w weighs classes, p the positive examples among them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lagrange_jax._checks import require_real
from lagrange_jax.losses.reading import as_columns, as_number
from lagrange_jax.losses.record import Kind, Loss, Start, Targets

__all__ = [
    "SIGMOID",
    "SOFTMAX",
    "ClassParameters",
    "sigmoid",
    "softmax",
    "without_smoothing",
]

# How far probabilities may be from one in sum: those of a model in half precision.
SUM_TOLERANCE = 1e-2
# An output whose labels are all alike has the bias of half an example of the other
# kind instead of an infinite one,
HALF_EXAMPLE = 0.5
# and the softmax classes without examples share this part of eps.
ABSENT = 0.01


class ClassParameters(NamedTuple):
    """Numbers of a cross-entropy.

    Attributes:
      label_smoothing: share of each target that is spread evenly over the classes.
      class_weights: factor of each class's term `[k]`; None for all ones.
      positive_weights: factor of the positive examples `[k]`; None for all ones.
    """

    label_smoothing: Any = 0.0
    class_weights: Any = None
    positive_weights: Any = None


def softmax(*, label_smoothing: Any = 0.0, class_weights: Any = None) -> Loss:
    r"""Cross-entropy of one class of k: multinomial logistic regression.

    Targets are labels `[n]` (integers, or whole numbers of another type) or
    probabilities `[n, k]`. For a head with one output it is `sigmoid`.

    Args:
      label_smoothing: share of each target that is spread evenly over the classes.
      class_weights: `[k]`, factor of each class's term, not normalised: the loss stays
        a mean over the examples.

    Returns:
      The `Loss`.

    Raises:
      ValueError: if the smoothing is outside [0, 1), or a weight is negative.
    """
    return Loss(SOFTMAX, _parameters(label_smoothing, class_weights))


def sigmoid(
    *,
    label_smoothing: Any = 0.0,
    class_weights: Any = None,
    positive_weights: Any = None,
) -> Loss:
    r"""Binary cross-entropy of each of k outputs, summed: multi-label, or k = 1.

    Targets are zeros and ones or probabilities `[n, k]` (or `[n]` for k = 1), or
    integer labels `[n]` for k > 1, each against the rest.

    Args:
      label_smoothing: how far each target is moved towards one half: by half of it.
      class_weights: `[k]`, factor of each output's loss.
      positive_weights: `[k]`, factor of the term of the positive examples.

    Returns:
      The `Loss`.

    Raises:
      ValueError: if the smoothing is outside [0, 1), or a weight is negative.
    """
    return Loss(SIGMOID, _parameters(label_smoothing, class_weights, positive_weights))


def without_smoothing(loss: Loss) -> Loss:
    """Returns the loss of unsmoothed targets, by which a head is validated."""
    if not isinstance(loss.parameters, ClassParameters):
        return loss
    return loss._replace(parameters=loss.parameters._replace(label_smoothing=0.0))


def _parameters(label_smoothing, class_weights=None, positive_weights=None):
    as_number("label_smoothing", label_smoothing, 0, 1, least=True)
    weights = dict(class_weights=class_weights, positive_weights=positive_weights)
    return ClassParameters(
        label_smoothing, *(_weights(name, value) for name, value in weights.items())
    )


def _weights(name, value):
    if value is None or isinstance(value, Tracer):
        return value
    if len(require_real(name, value)) != 1:
        raise ValueError(f"expected {name} of shape [k]; got {np.shape(value)}.")
    value = tuple(float(x) for x in np.asarray(value))
    if not all(0 <= x < np.inf for x in value):
        raise ValueError(f"expected {name} >= 0 and finite; got {value}.")
    return value


def _row(weights, num_outputs, dtype):
    row = jnp.asarray(weights, dtype)
    if row.shape != (num_outputs,):
        raise ValueError(
            f"expected class weights of shape [{num_outputs}], one an output; got "
            f"{list(row.shape)}."
        )
    return row[None]


def _read_classes(p, targets, k, dtype):
    """Targets as probabilities `[n, k]`, their validity, and the smoothing."""
    if targets.shape[1:] == (1,) and k > 1:
        targets = targets[:, 0]
    if targets.ndim == 1 and k > 1:
        # In the labels' own type, 8 bits say, the numbers of the classes may repeat.
        labels = targets.astype(jnp.int32)
        is_whole = labels.astype(targets.dtype) == targets
        is_valid = is_whole & (labels >= 0) & (labels < k)
        targets = jax.nn.one_hot(labels, k, dtype=dtype)
    else:
        wanted = "integer labels [n] or probabilities"
        targets = as_columns(targets, k, dtype, num_outputs=k, wanted=wanted)
        is_valid = jnp.all((targets >= 0) & (targets <= 1 + SUM_TOLERANCE), 1)
    smoothing = jnp.asarray(p.label_smoothing, dtype)
    is_valid &= (smoothing >= 0) & (smoothing < 1)
    return targets, is_valid, smoothing


def _read_softmax(p, targets, k, dtype):
    targets, is_valid, smoothing = _read_classes(p, targets, k, dtype)
    is_valid &= jnp.abs(targets.sum(1) - 1) <= SUM_TOLERANCE
    targets = (1 - smoothing) * targets + smoothing / k
    if p.class_weights is not None:
        targets = _row(p.class_weights, k, dtype) * targets
    return Targets(targets, is_valid)


def _softmax(logits):
    """Logits below the largest, where that is, probabilities, and log of their sum."""
    top = logits.argmax(1)[:, None] == jnp.arange(logits.shape[1])[None]
    shifted = logits - jax.lax.stop_gradient(logits.max(1, keepdims=True))
    powers = jnp.exp(shifted)
    # The largest is one: what the others add to it keeps its digits in the logarithm.
    others = jnp.where(top, 0, powers).sum(1, keepdims=True)
    return shifted, top, powers / (1 + others), jnp.log1p(others)


def _softmax_value(p, logits, targets):
    shifted, _, _, log_total = _softmax(logits)
    return jnp.sum(targets * (log_total - shifted), 1)


def _softmax_slope(p, logits, targets):
    _, top, probabilities, _ = _softmax(logits)
    slopes = targets.sum(1, keepdims=True) * probabilities - targets
    # All slopes sum to zero: that of a class all but certain keeps its digits so.
    others = jnp.where(top, 0, slopes)
    return jnp.where(top, -others.sum(1, keepdims=True), others)


def _softmax_curvature(p):
    # diag(p) - p p^T of probabilities p has no eigenvalue above one half.
    return 0.5 * _largest(p.class_weights)


def _largest(weights):
    return 1.0 if weights is None else jnp.max(jnp.asarray(weights))


def _softmax_bend(p, logits, targets, direction):
    _, top, probabilities, _ = _softmax(logits)
    # Only differences count: from the likeliest class's the rest keeps its digits.
    direction -= jnp.where(top, direction, 0).sum(1, keepdims=True)
    mean = jnp.sum(probabilities * direction, 1, keepdims=True)
    return targets.sum(1, keepdims=True) * probabilities * (direction - mean)


def _softmax_start(p, means, k):
    mean = means.mean
    shares = mean / jnp.where(mean.sum() > 0, mean.sum(), 1)
    # The biases of the others would drift up until these classes take nothing more.
    num_absent = jnp.sum(mean <= 0, dtype=mean.dtype)
    least = ABSENT * jnp.finfo(mean.dtype).eps / jnp.maximum(num_absent, 1)
    return Start(jnp.log(jnp.maximum(shares, least)), mean > 0)


def _softmax_is_right(p, logits, targets):
    return logits.argmax(1) == targets.argmax(1)


def _num_outputs(targets):
    is_label = targets.ndim == 1 or not jnp.issubdtype(targets.dtype, jnp.floating)
    return None if is_label or targets.ndim != 2 else targets.shape[1]


SOFTMAX = Kind(
    "softmax",
    value=_softmax_value,
    slope=_softmax_slope,
    curvature=_softmax_curvature,
    bend=_softmax_bend,
    read=_read_softmax,
    start=_softmax_start,
    is_right=_softmax_is_right,
    num_outputs=_num_outputs,
    takes_labels=True,
    is_shift_invariant=True,
)


def _read_sigmoid(p, targets, k, dtype):
    """What each label weighs as a positive, `[n, k]`, and as a negative, `[n, k]`."""
    targets, is_valid, smoothing = _read_classes(p, targets, k, dtype)
    targets = (1 - smoothing) * targets + smoothing / 2
    positives, negatives = targets, 1 - targets
    if p.positive_weights is not None:
        positives = _row(p.positive_weights, k, dtype) * positives
    if p.class_weights is not None:
        row = _row(p.class_weights, k, dtype)
        positives, negatives = row * positives, row * negatives
    return Targets(jnp.concatenate([positives, negatives], 1), is_valid)


def _sigmoid_value(p, logits, targets):
    positives, negatives = jnp.split(targets, 2, axis=1)
    value = positives * jax.nn.softplus(-logits) + negatives * jax.nn.softplus(logits)
    return value.sum(1)


def _sigmoid_slope(p, logits, targets):
    positives, negatives = jnp.split(targets, 2, axis=1)
    return negatives * jax.nn.sigmoid(logits) - positives * jax.nn.sigmoid(-logits)


def _sigmoid_curvature(p):
    positive = jnp.maximum(_largest(p.positive_weights), 1)
    return 0.25 * _largest(p.class_weights) * positive


def _sigmoid_bend(p, logits, targets, direction):
    positives, negatives = jnp.split(targets, 2, axis=1)
    spread = jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)
    return (positives + negatives) * spread * direction


def _sigmoid_start(p, means, k):
    positives, negatives = jnp.split(means.mean, 2)
    total = jnp.where(means.mean.sum() > 0, positives + negatives, 1)
    least = total * HALF_EXAMPLE / jnp.maximum(means.count, 1)
    bias = jnp.log(jnp.maximum(positives, least) / jnp.maximum(negatives, least))
    return Start(jnp.where(total > 0, bias, 0), (positives > 0) & (negatives > 0))


def _sigmoid_is_right(p, logits, targets):
    positives, negatives = jnp.split(targets, 2, axis=1)
    return jnp.mean((logits > 0) == (positives > negatives), axis=1)


SIGMOID = Kind(
    "sigmoid",
    value=_sigmoid_value,
    slope=_sigmoid_slope,
    curvature=_sigmoid_curvature,
    bend=_sigmoid_bend,
    read=_read_sigmoid,
    start=_sigmoid_start,
    is_right=_sigmoid_is_right,
    num_outputs=_num_outputs,
    takes_labels=True,
)
