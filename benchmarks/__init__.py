"""Measurements of the test bed itself, each of which prints its figures and sums them up in its last line."""
