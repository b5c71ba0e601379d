#include "dispatch.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace edge {
namespace {

struct Candidate {
    const KernelTable* table;
    bool usable;
};

#if defined(EDGE_HAVE_AVX2)
// The builtin also asks (XGETBV) whether the system keeps the wide registers.
bool runs_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}
#endif
#if defined(EDGE_SIMULATE)  // tests, whose tables need no more than AVX2
bool runs_avxvnni() { return runs_avx2(); }
bool runs_avx512vnni() { return runs_avx2(); }
#else
#if defined(EDGE_HAVE_AVXVNNI)
// Not every compiler's builtin knows AVX-VNNI, which needs no registers but those of AVX2.
bool runs_avxvnni() {
    unsigned last_subleaf = 0, eax = 0, ebx = 0, ecx = 0, edx = 0;
    return runs_avx2() && __get_cpuid_count(7, 0, &last_subleaf, &ebx, &ecx, &edx) != 0 &&
           last_subleaf >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
           (eax >> 4 & 1) != 0;
}
#endif
#if defined(EDGE_HAVE_AVX512VNNI)
bool runs_avx512vnni() {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif
#if defined(EDGE_HAVE_AVX512BF16)
bool runs_avx512bf16() { return runs_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif
#endif
#if defined(EDGE_HAVE_NEON_DOTPROD) && defined(__linux__)
// Bits of the kernel's interface; headers older than the instructions lack their names.
bool runs_dotprod() { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }
bool runs_i8mm() { return runs_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }
#elif defined(EDGE_HAVE_NEON_DOTPROD)
bool system_says(const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool runs_dotprod() { return system_says("hw.optional.arm.FEAT_DotProd"); }
bool runs_i8mm() { return runs_dotprod() && system_says("hw.optional.arm.FEAT_I8MM"); }
#endif

// Best first.
std::vector<Candidate> candidates() {
    return {
#if defined(EDGE_HAVE_AVX512BF16)
        {&avx512bf16_kernels, runs_avx512bf16()},
#endif
#if defined(EDGE_HAVE_AVX512VNNI)
        {&avx512vnni_kernels, runs_avx512vnni()},
#endif
#if defined(EDGE_HAVE_AVXVNNI)
        {&avxvnni_kernels, runs_avxvnni()},
#endif
#if defined(EDGE_HAVE_AVX2)
        {&avx2_kernels, runs_avx2()},
#endif
#if defined(EDGE_HAVE_NEON_I8MM)
        {&neon_i8mm_kernels, runs_i8mm()},
#endif
#if defined(EDGE_HAVE_NEON_DOTPROD)
        {&neon_dotprod_kernels, runs_dotprod()},
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
