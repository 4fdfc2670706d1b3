"""Where clauses: text → typed expression → canonical SQL, and → a predicate over rows of the stream. Pure."""
