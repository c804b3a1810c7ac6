"""Each primitive in the plainest array code, where a reader meets the derivation and a test its oracle."""
