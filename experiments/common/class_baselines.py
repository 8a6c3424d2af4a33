"""Heads that no Lagrangian gives: frequencies, class means, scikit-learn's optimum."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.backbones.problem import Split

__all__ = [
    "class_means",
    "cross_validate_logistic_regression",
    "fit_logistic_regression",
    "frequencies",
    "imprinted",
]

Kernel = Float[np.ndarray, "d k"]
Bias = Float[np.ndarray, " k"]


def frequencies(split: Split, num_classes: int) -> tuple[Kernel, Bias]:
    """Returns a zero kernel, and the logarithm of how often each class is seen.

    One is added to every count, so that a class without examples has a finite bias.
    """
    counts = np.bincount(split.labels, minlength=num_classes) + 1.0
    kernel = np.zeros((split.features.shape[1], num_classes), np.float32)
    return kernel, np.log(counts / counts.sum()).astype(np.float32)


def _means(split: Split, num_classes: int) -> Kernel:
    one_hot = np.eye(num_classes, dtype=np.float32)[split.labels]
    return (split.features.T @ one_hot) / np.maximum(one_hot.sum(0), 1)


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


def cross_validate_logistic_regression(
    split: Split, num_classes: int, *, folds: int = 3
) -> tuple[Kernel, Bias]:
    """Returns scikit-learn's logistic regression at the best of its ten strengths.

    Args:
      split: the examples, some of every class for each fold.
      num_classes: number of classes.
      folds: of the cross-validation, judged by the log loss.
    """
    from sklearn.linear_model import LogisticRegressionCV

    settings: Any = {"l1_ratios": (0.0,), "use_legacy_attributes": False}
    model: Any = LogisticRegressionCV(
        Cs=10, cv=folds, scoring="neg_log_loss", max_iter=1000, **settings
    )
    model.fit(split.features, split.labels)
    kernel, bias = model.coef_.T, model.intercept_
    if num_classes == 2:  # one logit, that of the second class
        kernel = np.concatenate([np.zeros_like(kernel), kernel], 1)
        bias = np.concatenate([np.zeros_like(bias), bias])
    return kernel.astype(np.float32), bias.astype(np.float32)
