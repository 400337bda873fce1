"""The papers' tables side by side with their baselines, from one harness: `python benchmarks/evidence`."""
