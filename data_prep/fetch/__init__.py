"""Images from the web: many URLs at once, within limits of time, bytes and memory, each with the truth about its end."""
