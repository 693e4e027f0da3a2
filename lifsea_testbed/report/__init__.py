"""What a run leaves behind: verdicts, gate.json, evidence."""
