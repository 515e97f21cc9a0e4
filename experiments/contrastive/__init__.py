"""exp15: differences of data-set means: where the data come from, what steering with them writes, how it is told."""
