"""Full text over any script: what was typed as terms, and the indexes that look for them."""
