"""What the RUL study runs, and about how long it takes.

On one core with AVX-512 a training step of 512 windows takes 75 ms, so an epoch of
FD001 about 2.3 s with its two evaluations (FD002 5.8 s, FD003 2.7 s, FD004 6.8 s).
`full()` has 26 methods, 2 target scales, 5 seeds and 10 epochs: about an hour.
A row is recorded as soon as it is trained, and a stopped run resumes.
"""

import dataclasses

from experiments.studies.rul.methods import MAIN, METHODS

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run on one C-MAPSS subset.

    Attributes:
      subset: "FD001" to "FD004".
      seeds: each seed draws the split of the engines, the network's body and the
        order of the examples, the same for all methods.
      methods: names in `METHODS`, run in this order.
      target_scales: targets are remaining cycles divided by these: 1 trains on raw
        targets 0..125, 125 on 0..1.
      epochs: passes over the training windows.
      evaluations: measurements of the validation loss in an epoch.
      learning_rates: of Adam; tables and figures show each method at its best one.
      batch_size: windows in a training step.
      max_engines: engines used for training, at most; 0 for all.
    """

    subset: str = "FD001"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    methods: tuple[str, ...] = tuple(dict.fromkeys((*MAIN, *METHODS)))
    target_scales: tuple[float, ...] = (125.0, 1.0)
    epochs: int = 10
    evaluations: int = 2
    learning_rates: tuple[float, ...] = (1e-3,)
    batch_size: int = 512
    max_engines: int = 0

    @classmethod
    def full(cls) -> "Config":
        """FD001 with all methods; other subsets by `subset=FD002` and so on."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """A minute at most: few engines, one seed, two methods."""
        return cls(
            seeds=(0,),
            methods=("kaiming", "forward_equality"),
            target_scales=(125.0,),
            epochs=2,
            batch_size=128,
            max_engines=8,
        )
