"""Scores, intervals, calibration."""
