"""What the study of the best strength runs, and about how long it takes."""

import dataclasses

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the study.

    A reading of what the thesis leaves open is written
    "activation/divisor/batch/penalised": the hidden activation (a name in `jax.nn`),
    what the inputs are divided by, the examples in a mini-batch ("full" for all of
    them), and the penalised parameters ("all", "kernels", "first" or "second" layer).

    Attributes:
      parts: what to run, and in what order: "readings", "protocol", "fixed",
        "converged", "heads", and "long", the largest variance with `cases.LONG` times
        the epochs.
      reading: the reading that the figures of the thesis are drawn for.
      readings: the readings that are compared.
      scaled_readings: those of them that are compared at every initial variance.
      seeds: each seed draws data, validation data and initial weights.
      heads: solved heads, trained like those of the thesis: "lagrange" has the squared
        norm that a random head would have, "evidence" the norm that the data choose.
      head_seeds: seeds for solved heads, the first of `seeds`.
      reading_seeds: seeds for each of the compared readings.
      epochs: passes over the data.
      learning_rate: of gradient descent.
      first_sizes: numbers of examples of the thesis's figure 2.
      sizes: those of its figures 3 and 4.
      variance_scales: factors on the initial variance 1 / fan-in.
      num_validation: validation examples, drawn anew by each seed.
      fixed_sizes: numbers of examples for heads on a fixed random hidden layer.
      fixed_seeds: seeds for these.
      converged_sizes: numbers of examples for networks trained to convergence.
      converged_networks: readings of these, "activation/divisor/full/penalised".
      converged_seeds: seeds for these.
      converged_epochs: steps of Adam, its rate falling to zero on a cosine.
      longer: the first of `converged_networks` is also trained this many times as long.
      converged_rate: initial rate of Adam.
      ratios: strength of the first layer over that of the second, at one geometric
        mean; the networks are those of the first of `converged_networks`.
    """

    parts: tuple[str, ...] = (
        *("fixed", "protocol", "converged", "heads", "readings", "long"),
    )
    reading: str = "sigmoid/8/100/all"
    readings: tuple[str, ...] = (
        *("sigmoid/8/full/all", "tanh/8/full/all", "relu/8/full/all"),
        *("sigmoid/1/full/all", "tanh/1/full/all", "relu/1/full/all"),
        *("sigmoid/8/32/all", "tanh/8/32/all", "relu/8/32/all"),
        *("sigmoid/1/32/all", "tanh/1/32/all", "relu/1/32/all"),
        *("sigmoid/8/10/all", "sigmoid/8/100/all"),
        *("sigmoid/8/32/kernels", "sigmoid/8/32/first", "sigmoid/8/32/second"),
    )
    scaled_readings: tuple[str, ...] = (*("sigmoid/8/full/all", "sigmoid/8/32/all"),)
    seeds: int = 8
    heads: tuple[str, ...] = ("lagrange",)
    head_seeds: int = 4
    reading_seeds: int = 2
    epochs: int = 500
    learning_rate: float = 0.1
    first_sizes: tuple[int, ...] = (
        *(8, 12, 20, 32, 50, 80, 126, 202, 320, 508, 808, 1282, 2038, 3240),
    )
    sizes: tuple[int, ...] = (108, 158, 232, 338, 494, 722, 1056, 1544, 2258, 3300)
    variance_scales: tuple[float, ...] = (0.1, 1.0, 10.0)
    num_validation: int = 20000
    fixed_sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600, 3200)
    fixed_seeds: int = 256
    converged_sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600)
    converged_networks: tuple[str, ...] = (
        *("tanh/8/full/all", "identity/8/full/all", "sigmoid/8/full/all"),
        "tanh/8/full/second",
    )
    converged_seeds: int = 6
    converged_epochs: int = 2000
    converged_rate: float = 0.05
    longer: int = 2
    ratios: tuple[float, ...] = (0.01, 100.0)

    @classmethod
    def full(cls) -> "Config":
        """The committed results."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """A few seconds of computing, and as many programs to compile as must be."""
        return cls(
            reading="tanh/8/full/all",
            readings=("tanh/8/full/all",),
            scaled_readings=(),
            seeds=2,
            head_seeds=2,
            reading_seeds=2,
            epochs=10,
            first_sizes=(16, 64),
            sizes=(16, 64),
            variance_scales=(1.0,),
            num_validation=200,
            fixed_sizes=(100, 400),
            fixed_seeds=4,
            converged_sizes=(16, 64),
            converged_networks=("tanh/8/full/all",),
            converged_seeds=2,
            converged_epochs=80,
            longer=1,
            ratios=(10.0,),
        )
