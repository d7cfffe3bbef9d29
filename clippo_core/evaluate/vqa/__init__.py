"""VQAv2, with the question rendered into the photo."""
