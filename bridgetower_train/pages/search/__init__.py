"""What a search has found: the page, and the server that answers with it."""
