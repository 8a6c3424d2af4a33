r"""What a least-squares head does not know: its posterior, from the same spectrum.

The model is that of `evidence`: a prior $w_j \sim N(0, \sigma_j^2 / (N \mu) I)$ of the
weights of an output, a bias of flat prior, noise of variance $\sigma_j^2$. Then

.. math:: w_j \mid t \sim N\bigl(\hat w_j,\ \tfrac{\sigma_j^2}{N} (S + \mu I)^{-1}\bigr)

with ridge regression in the middle, independent of the output at the mean features,
$\hat b_j + \hat w_j^T m_\phi$, whose variance is $\sigma_j^2 / N$. At features $\phi$

.. math:: \operatorname{var} f_j(\phi) = \frac{\sigma_j^2}{N} \bigl(1 +
          (\phi - m_\phi)^T (S + \mu I)^{-1} (\phi - m_\phi)\bigr),

without the one for a head without bias, and a new target has $\sigma_j^2$ more.

**Noise.** $\sigma_j^2 = N\,\mathrm{loss}_j / \nu_j$ with the degrees of freedom
$\nu_j = N - 1 - \sum_i s_i / (s_i + \mu)$ that fit and bias leave: at the strength of
most evidence it is the noise of that evidence, and without a strength the usual
unbiased estimate. For one estimated so, an interval of $\nu_j$ degrees of freedom of
Student's t is the right one.

References:
  D. J. C. MacKay, "Bayesian interpolation", Neural Computation 4, 1992.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from lagrange_jax._checks import require_record, require_shapes
from lagrange_jax.numerics.linalg import dot
from lagrange_jax.ridge.path import (
    degrees_of_freedom,
    multiplier_row,
    ridge_loss,
    solve_ridge,
)
from lagrange_jax.statistics.spectrum import Spectrum, require_spectrum

__all__ = ["HeadPosterior", "Prediction", "kernel_covariance", "posterior", "predict"]


class HeadPosterior(NamedTuple):
    r"""A normal distribution of heads.

    Attributes:
      kernel: its mean, the weights of ridge regression.
      bias: the bias of the mean.
      noise_variance: $\sigma^2$ of a target of weight one.
      freedom: $\nu$, the degrees of freedom that the noise was estimated with.
      mean_x: where kernel and output are independent; zero without a bias.
      basis: orthonormal directions, one a column.
      variances: of the weights along each direction.
      rest: of the weights along all others; zero where the basis is whole.
      at_mean: variance of the output at the mean features.
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    noise_variance: Float[Array, " k"]
    freedom: Float[Array, " k"]
    mean_x: Float[Array, " d"]
    basis: Float[Array, "d m"]
    variances: Float[Array, "m k"]
    rest: Float[Array, " k"]
    at_mean: Float[Array, " k"]


class Prediction(NamedTuple):
    """What a distribution of heads predicts.

    Attributes:
      mean: the outputs of the mean head.
      variance: variance of the outputs.
      target_variance: variance of new targets: that of the noise comes on top.
    """

    mean: Float[Array, "n k"]
    variance: Float[Array, "n k"]
    target_variance: Float[Array, "n k"]


def posterior(
    spectrum: Spectrum,
    strength: Float[Array, "*k"] | float,
    *,
    noise_variance: Float[Array, "*k"] | float | None = None,
) -> HeadPosterior:
    r"""Returns the posterior of the head.

    Args:
      spectrum: spectrum of the features, whole or thin. Weights count as numbers of
        examples.
      strength: at least zero, `[]` or one an output `[k]`: by `choose_strength`, or
        twice the multiplier of a head of `solve_least_squares`. Without one the prior
        is flat, and the variance along directions that the data leave empty infinite.
      noise_variance: $\sigma^2$, `[]` or `[k]`; None estimates it.

    Returns:
      The `HeadPosterior`. Where no degree of freedom is left over for the noise its
      variance is infinite: give it, or use a larger strength.

    Raises:
      ValueError: if the strength or the noise is neither a scalar nor one an output.

    Example:
      >>> x = jnp.array([[-1.0], [0.0], [1.0], [2.0]])
      >>> spectrum = lj.decompose(lj.compute_moments(x, jnp.sin(x)))
      >>> head = lj.ridge.posterior(spectrum, 0.1)
      >>> near, far = lj.ridge.predict(head, jnp.array([[0.5], [5.0]])).variance
      >>> print(f"{near[0]:.3f} {far[0]:.3f}")
      0.022 0.371
    """
    require_spectrum(spectrum)
    spectrum = lax.stop_gradient(spectrum)
    count, num_biases = spectrum.count, int(spectrum.num_biases)
    d, k = spectrum.cross.shape
    head = solve_ridge(spectrum, strength)
    multiplier = multiplier_row(spectrum, strength)
    freedom = count - num_biases - degrees_of_freedom(spectrum, strength)
    freedom = jnp.broadcast_to(freedom, (k,))
    if noise_variance is None:
        loss = ridge_loss(spectrum, strength)
        noise = jnp.where(freedom > 0, count * loss / freedom, jnp.inf)
    else:
        dims = {"noise_variance": "k" if np.ndim(noise_variance) else ""}
        require_shapes(dims, {"noise_variance": noise_variance}, k=k)
        noise = jnp.broadcast_to(jnp.asarray(noise_variance, multiplier.dtype), (k,))
    s = jnp.where(spectrum.eigenvalues > spectrum.resolution, spectrum.eigenvalues, 0)
    scale = noise / count
    rest = scale / multiplier[0] if len(s) < d else jnp.zeros(k, scale.dtype)
    return HeadPosterior(
        *head,
        noise,
        freedom,
        spectrum.mean_x,
        spectrum.eigenvectors,
        scale[None] / (s[:, None] + multiplier),
        rest,
        num_biases * scale,
    )


def predict(head: HeadPosterior, features: Float[Array, "n d"]) -> Prediction:
    r"""Returns the mean and the variance of outputs, and of new targets.

    `mean` $\pm\, t \sqrt{\texttt{target_variance}}$ with t of Student's distribution of
    `head.freedom` degrees of freedom (1.96 for many) covers 95 % of new targets.

    Args:
      head: the posterior.
      features: inputs of the head.

    Raises:
      ValueError: if the features do not fit the head.
    """
    require_record("head", head, HeadPosterior)
    d = len(head.kernel)
    require_shapes({"features": "n d"}, {"features": features}, d=d)
    features = jnp.asarray(features, head.kernel.dtype)
    rows = features - head.mean_x[None]
    squares = dot(rows, head.basis) ** 2
    # Nothing along a direction of infinite variance is nothing.
    used = jnp.isfinite(head.variances)
    variance = head.at_mean[None] + dot(squares, jnp.where(used, head.variances, 0))
    free = dot(squares, jnp.where(used, 0, 1).astype(squares.dtype))
    variance = jnp.where(free > 0, jnp.inf, variance)
    if head.basis.shape[1] < d:
        outside = jnp.sum(rows**2, axis=1) - squares.sum(1)
        variance = variance + jnp.maximum(outside, 0)[:, None] * head.rest[None]
    mean = dot(features, head.kernel) + head.bias[None]
    return Prediction(mean, variance, variance + head.noise_variance[None])


def kernel_covariance(head: HeadPosterior) -> Float[Array, "k d d"]:
    r"""Returns the covariance of the weights of each output, d x d numbers.

    Args:
      head: the posterior.
    """
    require_record("head", head, HeadPosterior)
    basis = head.basis

    def of_output(variances, rest):
        own = dot(basis * (variances - rest)[None], basis.T)
        return own + rest * jnp.eye(len(basis), dtype=basis.dtype)

    return jnp.stack(
        [of_output(head.variances[:, j], head.rest[j]) for j in range(len(head.rest))]
    )
