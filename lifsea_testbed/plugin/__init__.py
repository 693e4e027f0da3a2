"""The pytest plugin: options, hooks, fixtures, workers of xdist, shards."""
