// An ISA's functions as its table; included last, after lanes, dot products and what else an ISA
// chooses.
#pragma once

#include "kernels/gemm.h"
#include "kernels/rows.h"
#include "kernels/gemm_halves.h"
#include "kernels/attention.h"
#include "kernels/span_attention.h"
#include "kernels/bf16_keys.h"
#include "kernels/int8_keys.h"
#include "kernels/peak.h"

namespace edge {
namespace {

constexpr KernelTable table_of(const char* isa) {
    return {
        isa,
        tile_rows,
        query_rows,
        gemm_float,
        gemm_int<8>,
        gemm_int<4>,
        gemm_halves<8>,
        gemm_halves<4>,
        gemm_int_float<8>,
        gemm_int_float<4>,
        quantize_row,
        halve_row,
        sum_halves,
        sizeof(Half),
        rms_norm,
        silu_multiply,
        exponentials,
        add_row,
        add_scaled_row,
        {attend, attend_in_spans<Bf16Keys>, attend_in_spans<Int8Keys>},
        round_halves,
        top_two,
        logit_moments,
        burst_chains,
        burst_int8,
        burst_float,
        burst_bf16,
    };
}

}  // namespace
}  // namespace edge
