"""exp14's parts: pairs of distributions, a planted behaviour, what is measured, tables and figures."""
