#include "kernels/avxvnni/dot.h"
#include "kernels/plain_steps.h"
#include "kernels/each_row.h"
#include "kernels/plain_halves.h"

#include "kernels/table.h"

namespace edge {

constexpr KernelTable avxvnni_kernels = table_of("avxvnni");

}  // namespace edge
