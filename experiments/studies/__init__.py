"""One folder a study: config, run, figures, README."""
