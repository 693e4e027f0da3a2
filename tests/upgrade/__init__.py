"""Tests of upgrade/."""
