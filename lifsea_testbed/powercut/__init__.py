"""Power cuts: what a disk may hold when the power fails, and whether the image boots from each of it."""
