"""Text to tensors: corpus stages, readers, shards, batches and the embedded cafe world."""
