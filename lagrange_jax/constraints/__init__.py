"""How large the head may be. Imports `ridge`, `solvers` and what they stand on."""
