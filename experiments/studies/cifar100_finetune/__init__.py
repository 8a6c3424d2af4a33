"""Fine-tunes a whole ResNet from CIFAR-10 to CIFAR-100, from several first heads."""
