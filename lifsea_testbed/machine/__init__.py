"""A machine: made from a run's context, powered on, saved and restored; and fleets of machines on a private network."""
