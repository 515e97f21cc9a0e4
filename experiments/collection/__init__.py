"""exp16's parts: prompts, what is measured of a collection, tables and figures."""
