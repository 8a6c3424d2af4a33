"""Flax modules as records of pure functions. Only `linen` and `nnx` import Flax."""
