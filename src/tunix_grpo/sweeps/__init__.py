"""What the jobs of a sweep came to, side by side."""
