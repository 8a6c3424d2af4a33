"""TFDS builder of the C-MAPSS data; import `cmapss_dataset_builder` to register it."""
