"""What `tools/check_dataset.py` finds before a training: missing and unreadable files, wrong
labels, sizes and keypoints, duplicates. It reads data sets as the configs name them."""
