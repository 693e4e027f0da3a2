"""Tests of powercut/."""
