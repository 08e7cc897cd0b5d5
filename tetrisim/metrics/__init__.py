"""Numbers from rows, after the run."""
