"""Typed questions to a running guest; each module asks about one subject, in scripts of the POSIX shell."""
