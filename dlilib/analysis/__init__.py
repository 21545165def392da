"""Reads records; makes statistics, tables, figures and words. Trains nothing."""
