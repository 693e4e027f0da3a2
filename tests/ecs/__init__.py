"""Tests of ecs/."""
