"""Tests of plugin/."""
