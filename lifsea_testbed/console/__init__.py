"""What the machine says on its console, and the channel on which it is asked to do things."""
