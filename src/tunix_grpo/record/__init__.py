"""The record of a run: metrics, trackers, the learning curve and the summary."""
