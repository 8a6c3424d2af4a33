"""What the study of re-solved heads runs."""

import dataclasses

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run: problems x arms x learning rates x seeds.

    Attributes:
      problems: names in `problems.PROBLEMS`, run in this order.
      seeds: each draws the split, the body and the order of the examples, the same
        for all arms; what the tables compare.
      tuning_seeds: the same, for the choice of each arm's learning rate alone.
      windows_tuning_seeds: those of the problems of windows, whose networks run one
        after the other.
      arms: names of `training.make_arms` to run; empty for all.
      length: all numbers of steps are multiplied by this.
      rounds: interleaved timings of the arms; 0 for none.
    """

    problems: tuple[str, ...] = (
        *("diabetes", "friedman1", "friedman1_sgd", "fd002_rows", "poisson"),
        *("digits", "digits_sgd", "breast_cancer", "breast_cancer_sgd"),
        *("FD001", "boundary_layer", "friedman3", "fd002_rows_sgd", "FD003"),
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning_seeds: tuple[int, ...] = (100, 101, 102)
    windows_tuning_seeds: tuple[int, ...] = (100,)
    arms: tuple[str, ...] = ()
    length: float = 1.0
    rounds: int = 15

    @classmethod
    def full(cls) -> "Config":
        """The committed results."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """Seconds, and no data."""
        return cls(
            problems=("diabetes",),
            seeds=(0, 1, 2),
            tuning_seeds=(100,),
            arms=("zero", "decay 0.99, ridge 0.1"),
            length=0.01,
            rounds=0,
        )
