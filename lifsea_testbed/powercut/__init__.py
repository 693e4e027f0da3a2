"""Power cuts: every state in which a power failure may leave a disk, and whether the image boots from each."""
