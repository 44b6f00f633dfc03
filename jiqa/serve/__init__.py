"""Scores in the browser: a small HTTP server around a metric, and the one page it shows. Nothing here writes a file.

app.py routes; guard.py stands before all of it; upload.py reads requests; limits.py says what is refused; batcher.py
brings requests together into device calls; backend.py is the metric as the server sees it; command.py is `jiqa serve`.
"""
