"""What samplers are made of: memory, supply, choosing, strata and shares, mixtures."""
