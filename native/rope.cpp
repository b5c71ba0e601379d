#include "rope.h"

#include <cmath>

namespace edge {

void Rope::extend(int64_t end) {
    const int64_t pairs = rotary_dims_ / 2;
    for (int64_t position = static_cast<int64_t>(cosines_.size()) / pairs; position < end;
         ++position) {
        for (int64_t i = 0; i < pairs; ++i) {
            const double exponent =
                -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dims_);
            const double angle = static_cast<double>(position) * std::pow(theta_, exponent);
            cosines_.push_back(static_cast<float>(std::cos(angle)));
            sines_.push_back(static_cast<float>(std::sin(angle)));
        }
    }
}

void Rope::rotate(float* heads, int64_t num_heads, int64_t head_dim, int64_t position) const {
    const int64_t pairs = rotary_dims_ / 2;
    const float* cosine = cosines_.data() + position * pairs;
    const float* sine = sines_.data() + position * pairs;
    const int64_t step = pairs_ == RopePairs::adjacent ? 2 : 1;
    const int64_t partner = pairs_ == RopePairs::adjacent ? 1 : pairs;
    for (float* head = heads; head < heads + num_heads * head_dim; head += head_dim) {
        for (int64_t i = 0; i < pairs; ++i) {
            float& first = head[i * step];
            float& second = head[i * step + partner];
            const float turned = first * cosine[i] - second * sine[i];
            second = first * sine[i] + second * cosine[i];
            first = turned;
        }
    }
}

}  // namespace edge
