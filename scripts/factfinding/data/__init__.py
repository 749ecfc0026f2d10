"""What goes into a study: subjects, facts, prompts."""
