"""Times injection, blending and training beside their baselines."""
