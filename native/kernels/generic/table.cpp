#include "kernels/generic/lanes.h"
#include "kernels/plain_steps.h"
#include "kernels/each_row.h"
#include "kernels/plain_halves.h"

#include "kernels/table.h"

namespace edge {

constexpr KernelTable generic_kernels = table_of("generic");

}  // namespace edge
