"""Native kernels for the processor, each beside its reference in plain torch.

`native` finds and calls the compiled library, `pack` rounds weights and lays them out, `matrix` is
one packed weight matrix, `decoder` the whole forward pass, `reference` the slow twins in torch.
"""
