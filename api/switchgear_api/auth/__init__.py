"""Who may call the API: for now the bearer of the bootstrap admin token."""
