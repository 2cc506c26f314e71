"""Many networks: the space, the judges, the rounds, the search and its run folder."""
