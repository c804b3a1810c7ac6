"""Turns a `.cu` file into a launch on arrays: instances, launchers, device arrays, capture, the
gate."""
