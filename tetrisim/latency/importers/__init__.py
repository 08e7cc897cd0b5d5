"""Other projects' measured tables, turned into profiles."""
