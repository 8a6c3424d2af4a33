"""TFDS builder of CIFAR-100; import `cifar100_dataset_builder` to use it."""
