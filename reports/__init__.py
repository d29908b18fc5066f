"""What a user gets out of a run: the report, its tables and figures, the comparison of runs."""
