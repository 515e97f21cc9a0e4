"""What the studies of directions share: prompt sets, stages of measurement, tables and figures."""
