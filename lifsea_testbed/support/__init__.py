"""What every package stands on: deadlines, protocols, sanitising, redaction, confinement, host capacity."""
