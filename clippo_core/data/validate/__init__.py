"""What is expected of the pairs, and what follows for each record."""
