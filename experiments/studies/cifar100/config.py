"""What the study on CIFAR-100 runs, and about how long it takes."""

import dataclasses

from experiments.common.class_heads import HEADS, TRAINED

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run on the features of one backbone.

    Attributes:
      backbone: one of `problem.BACKBONES`.
      resolution: pixels that the networks of ImageNet see.
      images_per_class: training images of each class; 0 for all.
      heads: names in `heads.HEADS`, measured before any training step.
      norms: squared norms of the path of cross-entropy heads, ascending.
      strengths: of scikit-learn's logistic regression, descending.
      trained: heads from which training starts.
      seeds: each seed draws what is held out for validation, the random heads and
        the order of the examples.
      learning_rates: of Adam; every head is trained with each.
      epochs: passes over the training examples.
      evaluations: measurements in an epoch.
      batch_size: examples in a training step.
      held_out: share of the training examples held out for validation.
      cache: folder of the features, which take 0.3 GB for EfficientNet-Lite0.
    """

    backbone: str = "efficientnet_lite0"
    resolution: int = 128
    images_per_class: int = 0
    heads: tuple[str, ...] = HEADS
    norms: tuple[float, ...] = (15, 30, 60, 120, 240, 480, 960)
    strengths: tuple[float, ...] = (1e-2, 3e-3, 2e-3, 1e-3, 3e-4, 1e-4)
    trained: tuple[str, ...] = TRAINED
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    epochs: int = 15
    evaluations: int = 2
    batch_size: int = 500
    held_out: float = 0.1
    cache: str = "runs/features"

    @classmethod
    def full(cls) -> "Config":
        """EfficientNet-Lite0, all images; others by `backbone=resnet18` and so on."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """Seconds, and no data: Gaussian classes."""
        return cls(
            backbone="synthetic",
            heads=("kaiming", "forward_at_most/one_hot", "ce_chosen"),
            norms=(1.0, 10.0),
            strengths=(1e-2,),
            trained=("kaiming", "imprinted"),
            seeds=(0,),
            learning_rates=(1e-3, 1e-2),
            epochs=2,
            batch_size=40,
        )
