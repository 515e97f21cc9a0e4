"""exp13's parts: requests under three forms, steered replies and slopes, tables and figures."""
