"""Puts the root of the checkout on the path of pytest, so that tests and suites are found; the plugin is installed."""
