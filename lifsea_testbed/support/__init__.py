"""Used by every package: deadlines, liveness, protocols, sanitising, redaction, confinement, host capacity."""
