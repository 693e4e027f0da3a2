"""What is asserted of an image: one file a promise, run by users against their image."""
