"""Which candidate comes next, where it runs, and what remains."""
