"""Finds what is wrong with the data of a config before a training: `tools/check_dataset.py`."""
