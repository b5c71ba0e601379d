// The kernel tables that this CPU can run, and the twin that all of them must equal.
#pragma once

#include <vector>

#include "dispatch.h"

namespace edge::test {

inline std::vector<const KernelTable*> all_tables() {
    std::vector<const KernelTable*> tables;
    for (const std::string& isa : supported_isas()) tables.push_back(&select_kernels(isa));
    return tables;
}

}  // namespace edge::test
