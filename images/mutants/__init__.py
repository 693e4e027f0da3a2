"""The recipes of the mutants, one TOML each; the wheel carries them for `lifsea-testbed explain`."""
