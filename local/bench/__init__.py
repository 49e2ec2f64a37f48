"""What it costs and how fast it is: `python -m local.bench`, a table and JSON; a measurement, never a test."""
