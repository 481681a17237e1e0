"""Holds OpenMMLab's train.py and test.py, and what prepares data or reproduces the paper.

Nothing of it is in the wheel; the package imports nothing of it.
"""
