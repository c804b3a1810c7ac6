"""What the two CPU backends share, where it is not itself a formula."""
