"""Everything that a study keeps on disk: the Optuna study, the run directory, artifacts; and reading them again."""
