// Which tables are offered and chosen, on this CPU and on those that an emulator pretends to be.
#include "dispatch.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "check.h"

using namespace edge;
using namespace edge::test;

namespace {

using Names = std::vector<std::string>;

void check_emulated_cpu(const Names& isas) {
    const std::map<std::string, Names> expected{
        {"Nehalem", {"generic"}},
        {"Haswell", {"avx2", "generic"}},
        {"cortex-a72", {"generic"}},
        {"cortex-a76", {"neon_dotprod", "generic"}},
        {"max", {"neon_i8mm", "neon_dotprod", "generic"}},
    };
    if (emulated_cpu() == nullptr) return;
    current_case = emulated_cpu();
    check(expected.at(current_case) == isas, "offers other instruction sets than the CPU has");
}

// The message for a table that is not there, or that this CPU cannot run.
std::string refusal(const std::string& isa) {
    try {
        select_kernels(isa);
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "";
}

}  // namespace

int main() {
    const Names isas = supported_isas();
    check(!isas.empty() && isas.back() == "generic", "generic is not the last resort");
    check(select_kernels("").isa == isas.front(), "the best one is not the default");
    for (const std::string& isa : isas) check(select_kernels(isa).isa == isa, "gives another");
    for (const char* name :
         {"avx2", "avxvnni", "avx512vnni", "neon_dotprod", "neon_i8mm", "sse9"}) {
        current_case = name;
        if (std::find(isas.begin(), isas.end(), name) != isas.end()) continue;
        const std::string message = refusal(name);
        check(message.find(name) != std::string::npos, "is accepted, or refused namelessly");
        for (const std::string& isa : isas)
            check(message.find(isa) != std::string::npos, "does not say what would work");
    }
    check_emulated_cpu(isas);
    return verdict();
}
