"""A training run in several processes: ranks that each do a share of every step."""
