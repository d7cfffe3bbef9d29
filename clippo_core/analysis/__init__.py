"""Looking at towers, corpora and runs: geometry, tokenizer lengths, published numbers, figures, decks, the report. Trains nothing."""
