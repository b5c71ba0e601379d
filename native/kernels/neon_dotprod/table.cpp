#include "kernels/neon_dotprod/dot.h"
#include "kernels/plain_steps.h"
#include "kernels/neon_dotprod/by_lane.h"
#include "kernels/plain_halves.h"

#include "kernels/table.h"

namespace edge {

constexpr KernelTable neon_dotprod_kernels = table_of("neon_dotprod");

}  // namespace edge
