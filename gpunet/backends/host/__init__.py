"""Code that the two CPU backends share: arrays, and nothing that is a formula to be checked."""
