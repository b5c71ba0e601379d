#include "kernels/avx512vnni/lanes.h"
#include "kernels/plain_steps.h"
#include "kernels/each_row.h"
#include "kernels/plain_halves.h"

#include "kernels/table.h"

namespace edge {

constexpr KernelTable avx512vnni_kernels = table_of("avx512vnni");

}  // namespace edge
