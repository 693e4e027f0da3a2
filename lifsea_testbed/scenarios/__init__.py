"""What is done to a machine once, so that several tests can judge it."""
