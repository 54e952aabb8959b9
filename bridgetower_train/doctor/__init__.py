"""What has to fit before a run starts: one file per theme, each a function from the configuration to findings."""
