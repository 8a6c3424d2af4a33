"""Init transforms. Imports `constraints`, `models.params` and what they stand on."""
