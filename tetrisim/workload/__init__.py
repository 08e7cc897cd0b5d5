"""Where requests come from: trace files, generators, and the law of their arrivals."""
