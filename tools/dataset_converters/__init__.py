"""Converts downloaded data: labels of Cityscapes to train ids, Jump-Broadcast to COCO style."""
