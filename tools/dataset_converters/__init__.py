"""From data as it is published to what the configs read: Cityscapes' labels (`cityscapes.py`) and
Jump-Broadcast (`jbd.py`). Every row and frame is checked; a bad one is an error with its line."""
