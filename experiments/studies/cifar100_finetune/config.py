"""What the study of fine-tuning runs, and about how long it takes."""

import dataclasses

__all__ = ["Config"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run.

    On one core with AVX-512 a training step takes 6 ms an image: an epoch of `full()`
    five minutes, and a row two and a half hours.

    Attributes:
      network: "resnet20", or "random" for a small one that needs no data.
      heads: names in `class_heads.HEADS`, solved on the features of the images to
        train on; after "resolved/" it is solved anew at every step as well (after
        "resolved_every_5/" at every fifth), after "probed/" it is trained on these
        features before all else.
      seeds: each seed draws the images to train on and to validate with, the random
        heads, the order of the images and their augmentation.
      learning_rates: of Adam at the start; it falls to 0 along a cosine.
      images_per_class: to train on.
      held_out_per_class: to validate with.
      epochs: passes over the images to train on.
      evaluations: measurements in an epoch.
      batch_size: images in a training step.
      corruptions: names in `corruptions.CORRUPTIONS`; what the trained network is
        worth on test images made worse.
      corrupted: that many of the test images, the first ones.
      augment: whether to flip and shift images at random.
    """

    network: str = "resnet20"
    heads: tuple[str, ...] = (
        *("kaiming", "ce_chosen", "forward_at_most/standardized"),
        *("xavier", "loss_within_50/one_hot", "orthogonal"),
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rates: tuple[float, ...] = (1e-3,)
    images_per_class: int = 450
    held_out_per_class: int = 50
    epochs: int = 30
    evaluations: int = 1
    batch_size: int = 32
    augment: bool = True
    corruptions: tuple[str, ...] = ()
    corrupted: int = 2000

    @classmethod
    def full(cls) -> "Config":
        """All images."""
        return cls()

    @classmethod
    def smoke(cls) -> "Config":
        """Seconds, and no data."""
        return cls(
            network="random",
            heads=(
                *("kaiming", "gcv/calibrated", "resolved/gcv/calibrated"),
                "probed/zeros",
            ),
            seeds=(0,),
            images_per_class=8,
            held_out_per_class=4,
            epochs=2,
            batch_size=16,
            corruptions=("blur", "contrast"),
        )
