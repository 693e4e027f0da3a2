"""Upgrades: the ways in which an OS gets its next image, what is on offer to it, and the repository that offers it."""
