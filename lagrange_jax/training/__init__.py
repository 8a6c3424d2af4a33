"""Whole grids of trainings in one call. Imports `initializers` and `models.params`."""
