"""What every study needs around it: options, runs and their folders, resuming, reports."""
