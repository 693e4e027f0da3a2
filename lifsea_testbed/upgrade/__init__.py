"""Upgrades: the tools by which an OS gets its next image, the offers made to it, and the repository of the offers."""
