"""Output for people: the terminal, the HTML report, and code to copy."""
