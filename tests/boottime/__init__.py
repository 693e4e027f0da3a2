"""Tests of boottime/."""
