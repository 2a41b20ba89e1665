"""A training run on disk: checkpoints, state, log and snapshots, and how a run continues."""
