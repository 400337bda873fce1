"""Where losses meet data: one loop, one file a trainable thing."""
