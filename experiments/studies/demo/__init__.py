"""The first two minutes: three initialisations on data that ship with scikit-learn."""
