#include "dispatch.h"

#include <stdexcept>

namespace edge {
namespace {

struct Candidate {
    const KernelTable* table;
    bool usable;
};

std::vector<Candidate> candidates() {
    return {
#if defined(EDGE_HAVE_AVX512VNNI)
        {&avx512vnni_kernels,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni")},
#endif
#if defined(EDGE_HAVE_AVX2)
        {&avx2_kernels, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                            __builtin_cpu_supports("f16c")},
#endif
        {&generic_kernels, true},
    };
}

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

}  // namespace

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates())
        if (candidate.usable) names.emplace_back(candidate.table->isa);
    return names;
}

const KernelTable& select_kernels(const std::string& isa) {
    for (const Candidate& candidate : candidates())
        if (candidate.usable && (isa.empty() || isa == candidate.table->isa))
            return *candidate.table;
    throw std::invalid_argument("the instruction set '" + isa +
                                "' cannot run here; these can: " + joined(supported_isas()));
}

}  // namespace edge
