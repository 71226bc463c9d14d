// NEON: not written yet; such machines use the plain kernels.
#include "types.h"

const puna::Kernels* puna::neon_kernels() { return nullptr; }
