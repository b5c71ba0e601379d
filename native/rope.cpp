#include "rope.h"

#include <cmath>

namespace edge {

float QueryScale::at(int64_t position) const {
    if (beta == 0.0 || position < length) return 1.0f;
    const double steps = static_cast<double>(position / length);
    return static_cast<float>(1.0 + beta * std::log1p(steps));
}

void Rope::extend(int64_t end) {
    // Not before the first step: until a file's tensors were seen its sizes are only a claim.
    for (auto i = static_cast<int64_t>(frequencies_.size()); i < num_pairs(); ++i) {
        const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dims_);
        frequencies_.push_back(std::pow(theta_, exponent));
    }
    for (int64_t position = static_cast<int64_t>(cosines_.size()) / num_pairs(); position < end;
         ++position) {
        for (const double frequency : frequencies_) {
            const double angle = static_cast<double>(position) * frequency;
            cosines_.push_back(static_cast<float>(magnitude_ * std::cos(angle)));
            sines_.push_back(static_cast<float>(magnitude_ * std::sin(angle)));
        }
    }
}

void Rope::rotate(float* heads, int64_t num_heads, int64_t head_dim, int64_t position) const {
    const int64_t pairs = num_pairs();
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
