"""Makes `pytest` find the suites from the root of the checkout; the plugin itself is installed."""
