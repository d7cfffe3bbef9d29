"""A run's bookkeeping: the values that tasks hand on, plans, digests, promotion, the journal."""
