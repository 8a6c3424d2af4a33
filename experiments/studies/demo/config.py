"""What the demo runs: about half a minute on two cores, compilation included."""

import dataclasses

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the demo.

    Attributes:
      tasks: "digits" (1797 images of 8 x 8, cross-entropy) and "diabetes" (442
        patients, squared error).
      seeds: networks for each method; all of them train in one call.
      epochs: passes over the training examples.
      batch_size: examples in a training step.
      learning_rate: of Adam.
      hidden: units in the hidden layer.
    """

    tasks: tuple[str, ...] = ("digits", "diabetes")
    seeds: int = 5
    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 1e-3
    hidden: int = 64

    @classmethod
    def full(cls) -> "Config":
        """The demo of the README."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """A few seconds."""
        return cls(tasks=("diabetes",), seeds=2, epochs=4, hidden=8)
