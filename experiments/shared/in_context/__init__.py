"""In-context tasks, their screening, heads and transfer."""
