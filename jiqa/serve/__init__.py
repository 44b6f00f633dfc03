"""Scores in the browser: a small HTTP server around a metric, and the one page it shows. Nothing here writes a file."""
