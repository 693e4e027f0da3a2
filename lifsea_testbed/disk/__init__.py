"""Disks read offline: pure Python over untrusted bytes, read-only, bounded; nothing is mounted and nothing is run."""
