"""Scenarios: actions on a machine that are done once, and whose outcome several tests judge."""
