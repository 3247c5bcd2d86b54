"""What a run stands on: its devices, its checkpoints, where it starts and how it is stopped."""
