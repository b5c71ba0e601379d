#include "kernels/neon_i8mm/dot.h"
#include "kernels/plain_steps.h"
#include "kernels/neon_dotprod/by_lane.h"
#include "kernels/plain_halves.h"

#include "kernels/table.h"

namespace edge {

constexpr KernelTable neon_i8mm_kernels = table_of("neon_i8mm");

}  // namespace edge
