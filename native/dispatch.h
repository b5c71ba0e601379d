// Which kernel tables this build holds and this CPU can run.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace edge {

// Names of the usable ISAs, best first; the last is always "generic".
std::vector<std::string> supported_isas();

// The table of that name, the best one for an empty name. Throws std::invalid_argument that
// lists what would work.
const KernelTable& select_kernels(const std::string& isa);

}  // namespace edge
