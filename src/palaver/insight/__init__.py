"""What the records say together: mergeable percentiles, metrics per day and month, usage and its cost."""
