"""Heads that no Lagrangian gives: class means, and scikit-learn's optimum."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.backbones.problem import Split

__all__ = ["class_means", "fit_logistic_regression", "imprinted"]

Kernel = Float[np.ndarray, "d k"]
Bias = Float[np.ndarray, " k"]


def _means(split: Split, num_classes: int) -> Kernel:
    one_hot = np.eye(num_classes, dtype=np.float32)[split.labels]
    return (split.features.T @ one_hot) / one_hot.sum(0)


def class_means(split: Split, num_classes: int) -> tuple[Kernel, Bias]:
    r"""Returns the linear head that predicts the class of the nearest mean.

    $-\tfrac12 \|\phi - m_j\|^2 = m_j^T \phi - \tfrac12 \|m_j\|^2$ but for a term that
    all classes share.
    """
    means = _means(split, num_classes)
    return means, -0.5 * (means**2).sum(0)


def imprinted(split: Split, num_classes: int) -> tuple[Kernel, Bias]:
    """Returns the mean of the unit features of each class, normalised, without bias.

    References:
      H. Qi, M. Brown, D. G. Lowe, "Low-shot learning with imprinted weights", CVPR
      2018.
    """
    lengths = np.linalg.norm(split.features, axis=1, keepdims=True)
    units = Split(split.features / np.where(lengths > 0, lengths, 1), split.labels)
    means = _means(units, num_classes)
    return means / np.linalg.norm(means, axis=0), np.zeros(num_classes, np.float32)


def fit_logistic_regression(
    split: Split, num_classes: int, strength: float, *, max_iter: int = 1000
) -> tuple[Kernel, Bias, dict[str, Any]]:
    r"""Returns scikit-learn's L2-regularised multinomial logistic regression.

    Its objective divided by $C N$ is the mean cross-entropy plus
    $\tfrac12 \lambda \|W\|_F^2$ with $\lambda = 1 / (C N)$.

    Args:
      split: the examples, float32.
      num_classes: number of classes; each has an example.
      strength: $\lambda$.
      max_iter: iterations of L-BFGS, at most.

    Returns:
      Kernel, bias, and `iterations` and `converged` of the solver.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    inverse = 1 / (strength * len(split.labels))
    model: Any = LogisticRegression(C=inverse, solver="lbfgs", max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(split.features, split.labels)
    iterations = int(np.max(model.n_iter_))
    info = {"iterations": iterations, "converged": iterations < max_iter}
    kernel = model.coef_.T.astype(np.float32)
    assert kernel.shape[1] == num_classes
    return kernel, model.intercept_.astype(np.float32), info
