"""RetriNet: "face" from one reference, "clothes" from another (RetriBooru, section 5)."""
