"""What the data say of a head before training, on a random hidden layer."""

import jax
import jax.numpy as jnp
import numpy as np

import lagrange_jax as lj
from experiments.studies.strength_regret.config import Config
from experiments.studies.strength_regret.tasks import TASKS, draw
from lagrange_jax.ridge import evidence, leave_one_out

__all__ = ["RULES", "predict"]

RULES = ("evidence", "gcv", "leave-one-out")


def predict(config: Config, task: str, seed: int) -> np.ndarray:
    r"""Returns the strengths that `RULES` choose for the head, of all examples.

    The head of least squares on the features of the random hidden layer; for classes
    the strength is multiplied by the noise variance of the evidence, since the logit
    of linear discriminant analysis is the line of least squares over that variance.
    """
    examples, _ = draw(task, seed)
    kernel = jax.nn.initializers.he_normal()(
        jax.random.key(seed), (examples.inputs.shape[1], config.width)
    )
    features = jax.nn.relu(jnp.asarray(examples.inputs) @ kernel)
    targets = jnp.asarray(examples.targets)
    spectrum = lj.decompose(lj.compute_moments(features, targets))
    by_evidence = lj.choose_strength(spectrum)
    criteria = (lj.ridge.gcv, leave_one_out(features, targets))
    found = [by_evidence.strength]
    found += [lj.choose_strength(spectrum, x).strength for x in criteria]
    noise = evidence(spectrum, by_evidence.strength).noise_variance.mean()
    scale = noise if TASKS[task].classes else 1.0
    return np.array([float(x) * float(scale) for x in found])
