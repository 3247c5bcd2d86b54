"""A run, or several side by side, as a page that a browser opens without a network."""
