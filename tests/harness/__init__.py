"""Real daemons, trainers and commands as processes, for tests, the demo and benchmarks."""
