"""Fast products with matrices in few bits, each beside its plain-torch reference."""
