"""The optimal head under a bound. Imports `bounds`, `statistics`, `numerics`."""
