"""Pages, decks, tables and figures that show a run."""
