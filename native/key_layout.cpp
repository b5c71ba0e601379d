#include "key_layout.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "numbers.h"

namespace edge {
namespace {

constexpr int64_t run_length = 64;

int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// A format's code: elements of `per_lane` to four bytes; encode takes the inverse of the scale.
struct F32Code {
    using Element = float;
    static constexpr bool has_scales = false;
    static void encode(const KernelTable&, const float* values, int64_t count, float, float* out) {
        std::copy_n(values, count, out);
    }
    static float decode(float stored, float) { return stored; }
};

struct Bf16Code {
    using Element = uint16_t;
    static constexpr bool has_scales = false;
    static void encode(const KernelTable& kernels, const float* values, int64_t count, float,
                       uint16_t* out) {
        kernels.round_halves(values, count, out);
    }
    static float decode(uint16_t stored, float) { return float_from_bf16(stored); }
};

struct Int8Code {
    using Element = uint8_t;
    static constexpr bool has_scales = true;
    static constexpr float zero = 128.0f;
    static void encode(const KernelTable&, const float* values, int64_t count, float inverse,
                       uint8_t* out) {
        for (int64_t i = 0; i < count; ++i) {
            const float rounded = values[i] * inverse + 0x1.8p23f - 0x1.8p23f;  // ties to even
            out[i] = static_cast<uint8_t>(static_cast<int32_t>(rounded + zero));
        }
    }
    static float decode(uint8_t stored, float scale) {
        return (static_cast<float>(stored) - zero) * scale;
    }
};

template <typename Visit>
auto with_code(KeyFormat format, Visit visit) {
    switch (format) {
        case KeyFormat::bf16: return visit(Bf16Code{});
        case KeyFormat::int8: return visit(Int8Code{});
        default: return visit(F32Code{});
    }
}

template <typename Code>
constexpr int64_t per_lane = 4 / sizeof(typename Code::Element);

// Where element d of the key at `place` is: [dim / per lane][16 keys][per lane].
struct KeyIndex {
    int64_t place;
    template <typename Code>
    int64_t at(int64_t d) const {
        constexpr int64_t per = per_lane<Code>;
        return (d / per * block_keys + place) * per + d % per;
    }
    // Put a run of elements, the first of them at d, where they belong.
    template <typename Code, typename Element = typename Code::Element>
    void scatter(const Element (&run)[run_length], int64_t d, int64_t count, Element* block) const {
        constexpr int64_t per = per_lane<Code>;
        Element* lane = block + (d / per * block_keys + place) * per;
        for (int64_t i = 0; i < count; i += per, lane += block_keys * per)
            std::copy_n(run + i, per, lane);
    }
    template <typename Code>
    static int64_t bytes(int64_t dim) {
        return round_up(dim, per_lane<Code>) / per_lane<Code> * line_bytes;
    }
};

// Of the value: [dim / 16][16 values / per lane][16 of dim][per lane]; float values are rows.
struct ValueIndex {
    int64_t place;
    int64_t dim;
    template <typename Code>
    int64_t at(int64_t d) const {
        constexpr int64_t per = per_lane<Code>;
        if constexpr (per == 1) return place * round_up(dim, 16) + d;
        return ((d / 16 * (block_keys / per) + place / per) * 16 + d % 16) * per + place % per;
    }
    template <typename Code, typename Element = typename Code::Element>
    void scatter(const Element (&run)[run_length], int64_t d, int64_t count, Element* block) const {
        constexpr int64_t per = per_lane<Code>;
        for (int64_t i = 0; i < count; i += 16) {
            Element* sixteen = block + at<Code>(d + i);
            for (int64_t k = 0; k < 16; ++k) sixteen[k * per] = run[i + k];
        }
    }
    template <typename Code>
    static int64_t bytes(int64_t dim) {
        return round_up(dim, 16) / 16 * (block_keys / per_lane<Code>)*line_bytes;
    }
};

template <typename Index>
int64_t block_bytes(KeyFormat format, int64_t dim) {
    return with_code(format, [dim](auto code) {
        using Code = decltype(code);
        return Index::template bytes<Code>(dim) + (Code::has_scales ? line_bytes : 0);
    });
}

// By its bits, which are in the order of the magnitudes; NaN is the largest.
float largest_magnitude(const float* values, int64_t count) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; ++i)
        largest = std::max(largest, bits_of(values[i]) & 0x7FFFFFFFu);
    return float_from_bits(largest);
}

// The elements of one place and, where the code has them, its scale behind all elements.
template <typename Code, typename Index>
void write(const KernelTable& kernels, std::byte* block, const Index& index, const float* values,
           int64_t dim) {
    float inverse = 1.0f;
    if constexpr (Code::has_scales) {
        const float magnitude = largest_magnitude(values, dim);
        const bool is_zero = magnitude <= 1e-30f;
        auto* scales = reinterpret_cast<float*>(block + Index::template bytes<Code>(dim));
        scales[index.place] = is_zero ? 0.0f : magnitude / 127.0f;
        inverse = is_zero ? 0.0f : 127.0f / magnitude;
        if (!(magnitude < std::numeric_limits<float>::infinity())) return;  // told by the scale
    }
    using Element = typename Code::Element;
    auto* elements = reinterpret_cast<Element*>(block);
    Element run[run_length];
    for (int64_t first = 0; first < dim; first += run_length) {
        const int64_t count = std::min(run_length, dim - first);
        std::fill(run + count, run + run_length, Element{0});
        Code::encode(kernels, values + first, count, inverse, run);
        index.template scatter<Code>(run, first, count, elements);
    }
}

template <typename Code, typename Index>
void read_back(const std::byte* block, const Index& index, float* values, int64_t dim) {
    const auto* elements = reinterpret_cast<const typename Code::Element*>(block);
    float scale = 1.0f;
    if constexpr (Code::has_scales)
        scale =
            reinterpret_cast<const float*>(block + Index::template bytes<Code>(dim))[index.place];
    for (int64_t d = 0; d < dim; ++d)
        values[d] = Code::decode(elements[index.template at<Code>(d)], scale);
}

}  // namespace

int64_t AttentionShape::key_block() const { return block_bytes<KeyIndex>(format, head_dim); }
int64_t AttentionShape::value_block() const { return block_bytes<ValueIndex>(format, head_dim); }

void AttentionShape::place(const KernelTable& kernels, std::byte* keys, std::byte* values,
                           int64_t place, const float* key, const float* value) const {
    with_code(format, [&](auto code) {
        write<decltype(code)>(kernels, keys, KeyIndex{place}, key, head_dim);
        write<decltype(code)>(kernels, values, ValueIndex{place, head_dim}, value, head_dim);
    });
}

void AttentionShape::read(const std::byte* keys, const std::byte* values, int64_t place, float* key,
                          float* value) const {
    with_code(format, [&](auto code) {
        read_back<decltype(code)>(keys, KeyIndex{place}, key, head_dim);
        read_back<decltype(code)>(values, ValueIndex{place, head_dim}, value, head_dim);
    });
}

}  // namespace edge
