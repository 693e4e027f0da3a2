"""The ECS instance: its size, its identity, its hardware as seen from inside, and its metadata service."""
