"""What the study of regret runs."""

import dataclasses

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Grids of trainings: tasks x penalties x recipes x seeds.

    Attributes:
      tasks: names in `tasks.TASKS`.
      penalties: names in `networks.PENALTIES`.
      seeds: each draws examples, held-out examples and initial weights.
      recipes: changes of the recipe, "batch 4" for four times the batch size, "rate",
        "epochs" and "width" likewise, run for `recipe_tasks` at a quarter of the
        largest number of examples; "base" is none.
      recipe_tasks: tasks for which recipes are changed.
      recipe_penalties: penalties likewise.
      width: units of the hidden layer.
      num_epochs: passes over the examples.
      batch_size: examples in a mini-batch.
      smallest: least number of examples; sizes halve from the task's largest.
      most_sizes: at most so many sizes.
      fixed_repetitions: draws of each problem of `fixed_design`, and
        repetitions of `coverage`.
    """

    tasks: tuple[str, ...] = (
        *("clouds", "digits", "diabetes", "breast_cancer", "wine", "friedman"),
        *("engines", "images"),
    )
    penalties: tuple[str, ...] = ("sgd l2", "adam l2", "adam l1", "adamw")
    seeds: int = 8
    recipes: tuple[str, ...] = (
        *("base", "batch 4", "batch 0.25", "rate 0.25", "epochs 4", "epochs 0.25"),
        *("width 4", "width 0.25"),
    )
    recipe_tasks: tuple[str, ...] = ("clouds", "friedman", "diabetes", "breast_cancer")
    recipe_penalties: tuple[str, ...] = ("adam l2", "adamw")
    width: int = 32
    num_epochs: int = 50
    batch_size: int = 16
    smallest: int = 8
    most_sizes: int = 8
    fixed_repetitions: int = 400

    @classmethod
    def full(cls) -> "Config":
        """The committed results."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """A few seconds of computing."""
        return cls(
            tasks=("wine", "diabetes"),
            penalties=("adam l2", "adamw"),
            seeds=3,
            recipes=("base",),
            width=4,
            num_epochs=4,
            smallest=20,
            most_sizes=4,
            fixed_repetitions=5,
        )
