"""A pytest plugin that boots a container operating system image, unmodified, and holds it to its promises."""
