"""What the study of few examples runs."""

import dataclasses

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run.

    Attributes:
      sources: names in `sources.SOURCES`.
      numbers: labelled examples that there are; a source runs those that leave ten
        of each class, and a quarter of its examples to test with.
      heads: names in `class_heads.HEADS`, from which training starts.
      seeds: each draws the labelled examples, those of them that are held out, the
        random heads and the order of the examples.
      learning_rates: of Adam; every head is trained with each.
      epochs: passes over the examples to train on.
      batch_size: examples in a training step.
      held_out: share of the labelled examples that choose rate and epoch.
      cache: folder of the features.
    """

    sources: tuple[str, ...] = ("digits", "breast_cancer")
    numbers: tuple[int, ...] = (100, 300, 1000)
    heads: tuple[str, ...] = (
        *("kaiming", "frequencies", "imprinted"),
        *("gcv/calibrated", "ce_chosen"),
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    epochs: int = 300
    batch_size: int = 25
    held_out: float = 0.25
    cache: str = "runs/features"

    @classmethod
    def full(cls) -> "Config":
        """The committed results."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """Seconds, and no data but a table of scikit-learn."""
        return cls(
            sources=("breast_cancer",),
            numbers=(100,),
            heads=("frequencies", "gcv/calibrated"),
            seeds=(0,),
            learning_rates=(1e-2, 1e-1),
            epochs=4,
        )
