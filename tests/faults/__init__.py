"""What goes wrong on a sick host, and what a run makes of it."""
