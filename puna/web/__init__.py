"""The server: an HTTP interface that OpenAI's clients speak, in front of engine workers.

No model runs here and no torch is loaded: a request is checked, turned into token ids, and sent to
the worker process of its model as a record over a Unix socket (`puna.text.wire`).
"""
