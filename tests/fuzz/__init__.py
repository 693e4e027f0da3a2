"""Fuzzing of everything that parses what an image or a guest wrote."""
