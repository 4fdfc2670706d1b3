"""The shapes' logs: what is durable, what readers see, and how both are found again after a crash."""
