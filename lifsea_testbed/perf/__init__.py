"""Figures: measured in tests, stored for years, judged by statistics, shown on a dashboard."""
