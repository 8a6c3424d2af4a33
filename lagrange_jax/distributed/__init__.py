"""Examples on many devices and hosts. Imports `initializers` and `statistics`."""
