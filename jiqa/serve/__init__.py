"""Scores in the browser: a small HTTP server around a metric, and the one page it shows.

app.py routes; upload.py reads requests; limits.py says what is refused; batcher.py brings requests together into device
calls; guard.py is what stands before all of it; backend.py is the metric as the server sees it; command.py is
`jiqa serve`. Nothing here writes a file.
"""
