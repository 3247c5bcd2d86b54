"""Several processes that train one model together: what they say to one another, and how they end. No jax."""
