"""What is measured: likeness to a subject and to a prompt, and how far a customised model has drifted from its base."""
