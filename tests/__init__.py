"""Tests of lagrange_jax."""
