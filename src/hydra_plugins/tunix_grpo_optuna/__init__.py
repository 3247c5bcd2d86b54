"""A sweeper for Hydra, found by it because it lies in `hydra_plugins`."""
