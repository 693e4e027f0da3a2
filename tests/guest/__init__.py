"""Tests of guest/."""
