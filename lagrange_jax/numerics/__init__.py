"""Linear algebra, root finding and minimisation. Imports JAX alone."""
