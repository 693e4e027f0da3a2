"""The command line `lifsea-testbed`: everything that is not a run of pytest."""
