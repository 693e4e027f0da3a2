"""Recipes of the images that the test bed is tested with; no binaries."""
