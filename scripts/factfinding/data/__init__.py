"""What goes into a study: athletes, facts, prompts."""
