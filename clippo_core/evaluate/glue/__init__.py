"""GLUE, with rendered sentences."""
