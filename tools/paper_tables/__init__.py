"""Measures the paper's tables and the demos with the ordinary tools; see tools/reproduce.py."""
