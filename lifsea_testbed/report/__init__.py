"""The results of a run: verdicts, gate.json and the reports made from it, evidence."""
