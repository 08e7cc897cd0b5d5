"""Many runs: comparisons, and the folders they are kept in."""
