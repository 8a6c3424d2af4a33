"""Penalties and proximal steps as Optax transformations. Imports Optax alone."""
