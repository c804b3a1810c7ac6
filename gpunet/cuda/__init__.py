"""Turns a `.cu` file into a launch: instances, launchers, device arrays, capture and the gate."""
