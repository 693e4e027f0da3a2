"""A guest by subject: each class runs scripts of the POSIX shell, or reads the disk, and returns typed values."""
