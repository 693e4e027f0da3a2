"""Tests of qemu/."""
