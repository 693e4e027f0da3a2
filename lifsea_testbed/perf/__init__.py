"""Figures: taken in tests, kept for years, judged by statistics, shown on a dashboard."""
