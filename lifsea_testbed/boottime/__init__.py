"""Boot time: cold boots, marks and phases on the host's clock, instructions, and what got slower."""
