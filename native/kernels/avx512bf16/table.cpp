#include "kernels/avx512bf16/halves.h"
#include "kernels/plain_steps.h"
#include "kernels/each_row.h"

#include "kernels/table.h"

namespace edge {

constexpr KernelTable avx512bf16_kernels = table_of("avx512bf16");

}  // namespace edge
