#include "gguf.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "byte_reader.h"
#include "errors.h"
#include "model_limits.h"
#include "own_types.h"

namespace edge {
namespace {

enum class ValueType : uint32_t {
    u8 = 0,
    i8 = 1,
    u16 = 2,
    i16 = 3,
    u32 = 4,
    i32 = 5,
    f32 = 6,
    boolean = 7,
    string = 8,
    array = 9,
    u64 = 10,
    i64 = 11,
    f64 = 12,
};

constexpr char tokenizer_json_key[] = "tokenizer.huggingface.json";

std::string quoted(const std::string& name) { return "'" + name + "'"; }

bool read_bool(ByteReader& in) {
    const auto byte = in.get<uint8_t>("a boolean");
    if (byte > 1) in.fail("a boolean of value " + std::to_string(byte));
    return byte == 1;
}

// Call `visit` with a reader function for the scalar type, or fail on an unknown type id.
template <typename Visit>
void with_scalar_reader(ByteReader& in, ValueType type, uint64_t string_limit, Visit visit) {
    const char* what = "a value";
    switch (type) {
        case ValueType::u8: return visit([&] { return uint64_t{in.get<uint8_t>(what)}; });
        case ValueType::u16: return visit([&] { return uint64_t{in.get<uint16_t>(what)}; });
        case ValueType::u32: return visit([&] { return uint64_t{in.get<uint32_t>(what)}; });
        case ValueType::u64: return visit([&] { return in.get<uint64_t>(what); });
        case ValueType::i8: return visit([&] { return int64_t{in.get<int8_t>(what)}; });
        case ValueType::i16: return visit([&] { return int64_t{in.get<int16_t>(what)}; });
        case ValueType::i32: return visit([&] { return int64_t{in.get<int32_t>(what)}; });
        case ValueType::i64: return visit([&] { return in.get<int64_t>(what); });
        case ValueType::f32: return visit([&] { return double{in.get<float>(what)}; });
        case ValueType::f64: return visit([&] { return in.get<double>(what); });
        case ValueType::boolean: return visit([&] { return read_bool(in); });
        case ValueType::string:
            return visit([&] { return in.get_string(string_limit, "a string"); });
        case ValueType::array: in.fail("an array inside an array");
    }
    in.fail("unknown value type " + std::to_string(static_cast<uint32_t>(type)));
}

uint64_t smallest_size(ValueType type) {
    switch (type) {
        case ValueType::u8:
        case ValueType::i8:
        case ValueType::boolean: return 1;
        case ValueType::u16:
        case ValueType::i16: return 2;
        case ValueType::u32:
        case ValueType::i32:
        case ValueType::f32: return 4;
        default: return 8;
    }
}

Value read_array(ByteReader& in) {
    const auto type = static_cast<ValueType>(in.get<uint32_t>("an array's type"));
    const auto count = in.get<uint64_t>("an array's length");
    if (count > limits::max_array_elements)
        in.fail("an array of " + std::to_string(count) + " elements, at most " +
                std::to_string(limits::max_array_elements) + " are allowed");
    in.require(count * smallest_size(type), "an array");
    Value values;
    with_scalar_reader(in, type, limits::max_array_string_bytes, [&](auto read) {
        std::vector<decltype(read())> elements;
        elements.reserve(count);
        for (uint64_t i = 0; i < count; ++i) elements.push_back(read());
        values = std::move(elements);
    });
    return values;
}

KeyValue read_key_value(ByteReader& in) {
    KeyValue pair{in.get_string(limits::max_key_bytes, "a key"), {}};
    if (pair.key.empty()) in.fail("an empty key");
    const auto type = static_cast<ValueType>(in.get<uint32_t>("a value's type"));
    if (type == ValueType::array) {
        pair.value = read_array(in);
        return pair;
    }
    const uint64_t string_limit =
        pair.key == tokenizer_json_key ? limits::max_tokenizer_bytes : limits::max_string_bytes;
    with_scalar_reader(in, type, string_limit, [&](auto read) { pair.value = read(); });
    return pair;
}

std::vector<uint64_t> read_shape(ByteReader& in, const std::string& name) {
    const auto num_dimensions = in.get<uint32_t>("a dimension count");
    if (num_dimensions < 1 || num_dimensions > limits::max_dimensions)
        in.fail("tensor " + quoted(name) + " has " + std::to_string(num_dimensions) +
                " dimensions, 1 to " + std::to_string(limits::max_dimensions) + " are allowed");
    std::vector<uint64_t> shape;
    uint64_t elements = 1;
    for (uint32_t i = 0; i < num_dimensions; ++i) {
        const auto size = in.get<uint64_t>("a dimension");
        if (size < 1 || __builtin_mul_overflow(elements, size, &elements) ||
            elements > limits::max_tensor_elements)
            in.fail("tensor " + quoted(name) + " has a dimension of " + std::to_string(size) +
                    ", which is zero or too large");
        shape.push_back(size);
    }
    std::reverse(shape.begin(), shape.end());  // the file lists the fastest dimension first
    return shape;
}

TensorInfo read_tensor_info(ByteReader& in) {
    TensorInfo info{{}, TensorType::f32, {}, 0, 0};
    info.name = in.get_string(limits::max_tensor_name_bytes, "a tensor name");
    if (info.name.empty()) in.fail("an empty tensor name");
    info.shape = read_shape(in, info.name);
    const auto type_id = in.get<uint32_t>("a tensor type");
    const TypeLayout* layout = find_type(type_id);
    if (layout == nullptr)
        in.fail("tensor " + quoted(info.name) + " has the unknown type " + std::to_string(type_id));
    info.type = layout->type;
    const auto bytes = row_bytes(*layout, info.cols());
    if (!bytes)
        in.fail("tensor " + quoted(info.name) + " has rows of " + std::to_string(info.cols()) +
                " values, which groups of " + std::to_string(layout->group_size) +
                " do not divide");
    info.num_bytes = *bytes * info.rows();  // bounded by max_tensor_elements: cannot wrap
    info.offset = in.get<uint64_t>("a tensor offset");
    return info;
}

uint64_t round_up(uint64_t value, uint64_t alignment) {
    return (value + alignment - 1) / alignment * alignment;
}

uint64_t find_alignment(const ByteReader& in, const std::vector<KeyValue>& metadata) {
    for (const KeyValue& pair : metadata) {
        if (pair.key != "general.alignment") continue;
        const auto* alignment = std::get_if<uint64_t>(&pair.value);
        const bool sound = alignment != nullptr && *alignment >= limits::min_alignment &&
                           *alignment <= limits::max_alignment &&
                           (*alignment & (*alignment - 1)) == 0;
        if (!sound) in.fail("general.alignment must be a power of two from 8 to 4096");
        return *alignment;
    }
    return limits::default_alignment;
}

// Turn relative offsets into absolute ones while proving that the tensors tile the data section.
void place_tensors(GgufHeader& header, uint64_t file_size) {
    uint64_t next = header.data_offset;
    for (TensorInfo& info : header.tensors) {
        const uint64_t expected = next - header.data_offset;
        if (info.offset != expected)
            throw FileFault(header.data_offset,
                            "tensor " + quoted(info.name) + " is said to begin at " +
                                std::to_string(info.offset) +
                                " of the data, but the tensor before it ends at " +
                                std::to_string(expected));
        info.offset = next;
        if (next > file_size || info.num_bytes > file_size - next)
            throw FileFault(next, "the file ends inside tensor " + quoted(info.name) + " (" +
                                      std::to_string(info.num_bytes) + " bytes wanted, " +
                                      std::to_string(next < file_size ? file_size - next : 0) +
                                      " left)");
        next = round_up(next + info.num_bytes, header.alignment);
    }
    const uint64_t end = header.tensors.empty()
                             ? next
                             : header.tensors.back().offset + header.tensors.back().num_bytes;
    if (file_size < end) throw FileFault(file_size, "the file ends before its tensor data");
    if (file_size != next && file_size != end)
        throw FileFault(end, std::to_string(file_size - end) + " bytes follow the last tensor");
}

// An ordered set: a hostile file could make every key of a hash table collide.
void refuse_duplicate(std::set<std::string>& seen, const std::string& name, const ByteReader& in,
                      const char* kind) {
    if (!seen.insert(name).second) in.fail(std::string(kind) + quoted(name) + " occurs twice");
}

void read_preamble(ByteReader& in, uint64_t& num_tensors, uint64_t& num_keys) {
    if (in.get<uint32_t>("the magic number") != 0x46554747u)
        throw FileFault(0, "this is no GGUF file (it does not begin with 'GGUF')");
    const auto version = in.get<uint32_t>("the version");
    if (version != 3)
        throw FileFault(4, "GGUF version " + std::to_string(version) + ", version 3 is wanted");
    num_tensors = in.get<uint64_t>("the tensor count");
    num_keys = in.get<uint64_t>("the key count");
    if (num_tensors > limits::max_tensors ||
        num_tensors * limits::min_tensor_info_bytes > in.remaining_in_file())
        throw FileFault(
            8, "a count of " + std::to_string(num_tensors) + " tensors does not fit the file");
    if (num_keys > limits::max_keys ||
        num_keys * limits::min_key_value_bytes > in.remaining_in_file())
        throw FileFault(16,
                        "a count of " + std::to_string(num_keys) + " keys does not fit the file");
}

}  // namespace

uint64_t TensorInfo::rows() const {
    return std::accumulate(shape.begin(), shape.end() - 1, uint64_t{1}, std::multiplies<>());
}

GgufHeader parse_gguf(const std::byte* data, uint64_t available, uint64_t file_size) {
    ByteReader in(data, available, file_size);
    uint64_t num_tensors = 0;
    uint64_t num_keys = 0;
    read_preamble(in, num_tensors, num_keys);
    GgufHeader header;
    std::set<std::string> seen_keys;
    for (uint64_t i = 0; i < num_keys; ++i) {
        header.metadata.push_back(read_key_value(in));
        refuse_duplicate(seen_keys, header.metadata.back().key, in, "key ");
    }
    std::set<std::string> seen_tensors;
    for (uint64_t i = 0; i < num_tensors; ++i) {
        header.tensors.push_back(read_tensor_info(in));
        refuse_duplicate(seen_tensors, header.tensors.back().name, in, "tensor ");
    }
    header.alignment = find_alignment(in, header.metadata);
    header.data_offset = round_up(in.offset(), header.alignment);
    place_tensors(header, file_size);
    name_own_tensors(header);
    return header;
}

}  // namespace edge
