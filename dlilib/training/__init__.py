"""What one training run is, does and keeps. No grid of runs, no tables."""
