"""A machine: made from a run's context, powered on, saved and restored; several of them on a network of their own."""
