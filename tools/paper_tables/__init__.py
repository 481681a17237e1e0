"""Measures the paper's tables and ours with the ordinary tools; see tools/reproduce.py."""
