"""Every L2 strength from one spectrum. Imports `bounds`, `statistics`, `numerics`."""
