"""The transformer, its sizes, its heads and its checkpoints.

Fields of `ModelArgs` and names of tensors are Meta's, so that a released `params.json` and its
tensors load as they are. Training and serving meet in a checkpoint folder: `model.safetensors`,
`params.json`, `tokenizer.model` and `manifest.json`, which holds the SHA-256 of the other three.
"""
