// The LM head, streamed over the vocabulary: a row of logits never exists as a whole, unless
// top_k or top_p ask for a look at all of it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "linear.h"
#include "sampling.h"

namespace edge {

struct HeadRow {
    int32_t top1;
    int32_t sampled;  // argmax of logit / temperature + Gumbel noise
    float top1_logit;
    float top2_logit;
    float sampled_logit;
    float log_z;    // log of the sum of exp(logit) over the whole vocabulary
    float entropy;  // nats
    // Before the bias; the same as above when there is none.
    int32_t plain_top1;
    float plain_top1_logit;
    float plain_log_z;
};

class Head {
public:
    // Evaluate all rows of the input. `positions` [rows] tell the noise of one row from another's.
    // Returns false when `stop` said so before the end; throws NumericFault on non-finite logits.
    bool run(const Machine& machine, const WeightMatrix& weights, const LinearInput& input,
             const std::vector<int32_t>& positions, const HeadOptions& options,
             const std::function<bool()>& stop, std::vector<HeadRow>& rows);

private:
    struct Figures {
        LogitMoments moments;
        int32_t top1;
        float top1_logit;
        float top2_logit;
    };
    struct RowFigures {
        int32_t top1;
        float top1_logit;
        float top2_logit;
        float log_z;
        float entropy;
    };
    struct TileRow {
        Figures plain;
        Figures figures;
        DrawnToken drawn;
    };

    void evaluate_tile(const Machine& machine, const WeightMatrix& weights,
                       const LinearInput& input, int64_t tile, float* logits);
    static TileRow reduce(const KernelTable& kernels, float* logits, int64_t first, int64_t count,
                          int64_t row, int32_t position, const HeadOptions& options);
    static Figures figures_of(const KernelTable& kernels, float* logits, int64_t first,
                              int64_t count, const HeadOptions& options);
    static RowFigures merge(const TileRow* tiles, int64_t num_tiles, int64_t stride,
                            Figures TileRow::* part);
    static HeadRow head_row(const TileRow* tiles, int64_t num_tiles, int64_t stride, bool biased);

    void draw_rows(const Machine& machine, const std::vector<int32_t>& positions,
                   const HeadOptions& options, std::vector<HeadRow>& rows);

    std::vector<float> logits_;   // [threads][rows][tile columns]
    std::vector<float> whole_;    // [rows][vocab], only for truncated draws
    std::vector<TileRow> tiles_;  // [tiles][rows]
};

}  // namespace edge
