#include "kernels/neon_dotprod/dot.h"
#include "kernels/plain_steps.h"
#include "kernels/neon_dotprod/by_lane.h"

#include "kernels/gemm.h"
#include "kernels/rows.h"
#include "kernels/attention.h"
#include "kernels/peak.h"

namespace edge {

const KernelTable neon_dotprod_kernels{
    "neon_dotprod", tile_rows,   query_rows,        gemm_float,
    gemm_int<8>,    gemm_int<4>, gemm_int_float<8>, gemm_int_float<4>,
    quantize_row,   rms_norm,    silu_multiply,     add_row,
    attend,         maximum,     logit_moments,     burst_chains,
    burst_int8,     burst_float,
};

}  // namespace edge
