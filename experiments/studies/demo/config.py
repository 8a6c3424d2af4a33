"""What the demo runs: about a minute on two cores, compilation included."""

import dataclasses

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the demo.

    Attributes:
      tasks: "digits" (1797 images of 8 x 8, cross-entropy) and "diabetes" (442
        patients, squared error).
      seeds: networks for each method; all of them train in one call.
      learning_rates: of Adam; every method trains with each and is reported at its
        own best one.
      epochs: passes over the training examples.
      batch_size: examples in a training step.
      hidden: units in the hidden layer.
    """

    tasks: tuple[str, ...] = ("digits", "diabetes")
    seeds: int = 5
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    epochs: int = 60
    batch_size: int = 32
    hidden: int = 64

    @classmethod
    def full(cls) -> "Config":
        """The demo of the README."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """A few seconds."""
        rates = (1e-3, 1e-2)
        return cls(("diabetes",), seeds=2, learning_rates=rates, epochs=4, hidden=8)
