"""The instance that an image would run on: its size, its identity, and the metadata service that it asks."""
