"""The suites: tests of an image's claims, which users run against their image."""
