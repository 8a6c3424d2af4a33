"""What the head needs to know of the data. Imports `numerics`."""
