"""Published prompt sets: which there are, how they are fetched, how their files are read."""
