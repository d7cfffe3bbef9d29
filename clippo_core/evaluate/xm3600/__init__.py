"""Retrieval in the 36 languages of Crossmodal-3600."""
