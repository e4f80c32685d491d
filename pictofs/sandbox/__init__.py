"""An embedded server of the same API, for demos, tests and benchmarks."""
