r"""The marginal likelihood of a strength: what the data say before any training.

The model of one output: weights $w \sim N(0, \alpha^{-1} I)$, a bias of flat prior,
and targets $t_n \sim N(w^T \phi_n + b, (a_n \beta)^{-1})$. Its most probable head is
ridge regression with the multiplier $\mu = \alpha / (\beta N)$, that is with strength
$2 \alpha / (\beta N)$: for a given prior and noise the strength falls as 1 / N.

Weights and bias are integrated out in closed form, and the noise precision is put
where it makes the data most likely: $1 / \beta = N E / \nu$, where
$E = \mathrm{loss} + \mu \|w\|^2$ and $\nu$ is N, less one for a bias. A function of
the strength alone is left over.

References:
  D. J. C. MacKay, "Bayesian interpolation", Neural Computation 4, 1992.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax.ridge.path import (
    multiplier_row,
    norm_of_strength,
    of_examples,
    ridge_loss,
)
from lagrange_jax.statistics.spectrum import Spectrum, require_spectrum

__all__ = ["Evidence", "evidence", "negative_log_evidence"]


class Evidence(NamedTuple):
    r"""The evidence of a strength, for each output.

    Attributes:
      log_evidence: log marginal likelihood of the targets.
      noise_variance: $1 / \beta$, the noise of a target of weight one.
      prior_variance: $1 / \alpha$, the prior variance of a weight.
    """

    log_evidence: Float[Array, " k"]
    noise_variance: Float[Array, " k"]
    prior_variance: Float[Array, " k"]


def evidence(
    spectrum: Spectrum,
    strength: Float[Array, "*k"] | float,
) -> Evidence:
    r"""Returns the evidence, maximised over the noise.

    .. math:: -\frac{\nu}{2} \Bigl(\log \frac{2 \pi N E}{\nu} + 1\Bigr)
              - \frac12 \sum_i \log \Bigl(1 + \frac{s_i}{\mu}\Bigr)
              - \frac{N - \nu}{2} \log N

    Weights count as numbers of examples; their own logarithms, which no strength
    changes, are left out.

    Args:
      spectrum: spectrum of the features, whole or thin.
      strength: greater than zero, `[]` or one an output `[k]`.

    Returns:
      The `Evidence`; NaN where the weights add up to one at most: they are shares, and
      nothing tells how many examples there are.

    Raises:
      ValueError: if the strength is neither a scalar nor one an output.
    """
    require_spectrum(spectrum)
    spectrum = lax.stop_gradient(spectrum)
    count, multiplier = spectrum.count, multiplier_row(spectrum, strength)
    # Without a strength the prior is improper and the evidence minus infinity.
    multiplier = jnp.maximum(multiplier, jnp.finfo(multiplier.dtype).tiny)
    num_biases = int(spectrum.num_biases)
    penalty = multiplier[0] * norm_of_strength(spectrum, strength)
    scale = 1 / (count - num_biases)
    noise = count * scale * (ridge_loss(spectrum, strength) + penalty)
    noise = of_examples(spectrum, noise)
    log_fit = (jnp.log(2 * jnp.pi * noise) + 1) / scale
    s = jnp.maximum(spectrum.eigenvalues, 0)[:, None]
    log_volume = jnp.sum(jnp.log1p(s / multiplier), axis=0)
    log_evidence = -(log_fit + log_volume + num_biases * jnp.log(count)) / 2
    return Evidence(log_evidence, noise, noise / (multiplier[0] * count))


def negative_log_evidence(
    spectrum: Spectrum,
    strength: Float[Array, "*k"] | float,
) -> Float[Array, " k"]:
    """Returns minus the log evidence of each output: a criterion of the strength.

    Arguments and errors are those of `evidence`.
    """
    return -evidence(spectrum, strength).log_evidence
