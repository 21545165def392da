"""Times injection, blending and training beside their baselines. Trains for no result."""
