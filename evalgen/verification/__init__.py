"""Whether a dataset on disk is what it says: everything that a reader can check, from its files and what made it."""
