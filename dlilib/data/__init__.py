"""Where images come from: readers, checks with clear errors, splits. No training, no study."""
