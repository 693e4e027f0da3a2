"""The mutants: images that break one promise each, and the suites that have to find it."""
