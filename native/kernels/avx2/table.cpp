#include "kernels/avx2/dot.h"
#include "kernels/each_row.h"
#include "kernels/plain_halves.h"

#include "kernels/table.h"

namespace edge {

constexpr KernelTable avx2_kernels = table_of("avx2");

}  // namespace edge
