// The header parser: what a sound header says, and where it stops at an unsound one.
#include "gguf.h"

#include <functional>

#include "check.h"
#include "errors.h"
#include "gguf_bytes.h"

using namespace edge;
using namespace edge::test;

namespace {

GgufHeader parse(const std::string& bytes, size_t available) {
    // A copy of exactly the bytes that may be read, so that a sanitizer sees one too many.
    const std::vector<std::byte> prefix(
        reinterpret_cast<const std::byte*>(bytes.data()),
        reinterpret_cast<const std::byte*>(bytes.data()) + available);
    return parse_gguf(prefix.data(), available, bytes.size());
}

GgufBytes sound_file() {
    GgufBytes file;
    const std::string strings =
        raw(string_type) + raw(uint64_t{2}) + raw_string("a") + raw_string("");
    file.keys = {
        raw_key("byte", u8_type, raw(uint8_t{200})),
        raw_key("number", f32_type, raw(0.5f)),
        raw_key("flag", bool_type, raw(uint8_t{1})),
        raw_key("text", string_type, raw_string("h\xC3\xA9")),
        raw_key("texts", array_type, strings),
        raw_key("numbers", array_type, raw(u32_type) + raw(uint64_t{2}) + raw(7u) + raw(8u)),
        raw_key("none", array_type, raw(u64_type) + raw(uint64_t{0})),
    };
    file.add_tensor("first", TensorType::f32, 2, 3, random_floats(6, 1));
    file.add_tensor("second", TensorType::q8_0, 2, 32, random_floats(64, 2));
    return file;
}

void check_sound_file() {
    current_case = "a sound file";
    const std::string bytes = sound_file().assemble();
    const GgufHeader header = parse(bytes, bytes.size());
    check(header.metadata.size() == 7 && header.tensors.size() == 2, "another number of entries");
    check(std::get<uint64_t>(header.metadata[0].value) == 200, "another byte");
    check(std::get<double>(header.metadata[1].value) == 0.5, "another number");
    check(std::get<bool>(header.metadata[2].value), "another flag");
    check(std::get<std::string>(header.metadata[3].value) == "h\xC3\xA9", "another text");
    check(std::get<std::vector<std::string>>(header.metadata[4].value) ==
              std::vector<std::string>{"a", ""},
          "other texts");
    check(std::get<std::vector<uint64_t>>(header.metadata[5].value) == std::vector<uint64_t>{7, 8},
          "other numbers");
    check(std::get<std::vector<uint64_t>>(header.metadata[6].value).empty(), "not empty");
    const TensorInfo& second = header.tensors[1];
    check(second.shape == std::vector<uint64_t>{2, 32} && second.num_bytes == 68, "another shape");
    check(second.offset == header.data_offset + 32, "another offset");
    check(second.offset + 96 == bytes.size(), "the data does not end where the file ends");
}

// With fewer bytes at hand than the header has, more are asked for; with the file cut, it is bad.
void check_every_prefix() {
    const std::string bytes = sound_file().assemble();
    const uint64_t header_bytes = parse(bytes, bytes.size()).data_offset;
    for (size_t length = 0; length < bytes.size(); ++length) {
        current_case = "the first " + std::to_string(length) + " bytes";
        bool wants_more = false;
        try {
            parse(bytes, length);
        } catch (const NeedMoreBytes&) {
            wants_more = true;
        }
        if (length + 32 <= header_bytes) check(wants_more, "does not ask for the rest");
        if (length >= header_bytes) check(!wants_more, "asks for tensor data");
        bool refused = false;
        try {
            const std::string cut = bytes.substr(0, length);
            parse(cut, cut.size());
        } catch (const FileFault& fault) {
            refused = fault.offset() <= bytes.size();
        }
        const size_t end = bytes.size() - 96 + 68;  // what follows is padding, whole or absent
        check(refused == (length != end), "a cut file is not refused, or a padless one is");
    }
}

void check_refused(const char* name, const std::string& bytes, const std::string& reason) {
    current_case = name;
    std::string message = "accepted";
    try {
        parse(bytes, bytes.size());
    } catch (const FileFault& fault) {
        message = fault.what();
    } catch (const NeedMoreBytes&) {
        message = "asks for more than the whole file";
    }
    current_case += ": " + message;
    check(message.find(reason) != std::string::npos, "another refusal is wanted");
}

struct Damage {
    const char* name;
    const char* reason;
    std::function<void(GgufBytes&)> apply;
};

// Replace the second tensor's line: its name, dimensions, type, offset.
std::function<void(GgufBytes&)> second(std::string name, std::vector<uint64_t> dimensions,
                                       TensorType type, uint64_t offset) {
    return [=](GgufBytes& file) {
        file.tensors[1] = raw_tensor(name, dimensions, static_cast<uint32_t>(type), offset);
    };
}

std::function<void(GgufBytes&)> extra_key(const std::string& encoded) {
    return [=](GgufBytes& file) { file.keys.push_back(encoded); };
}

const Damage damages[] = {
    {"magic", "no GGUF", [](GgufBytes& file) { file.magic = "GGUX"; }},
    {"version 2", "version 2", [](GgufBytes& file) { file.version = 2; }},
    {"big endian", "version 50331648", [](GgufBytes& file) { file.version = 0x03000000; }},
    {"a key twice", "'byte' occurs twice", extra_key(raw_key("byte", u8_type, "x"))},
    {"a flag of 2", "boolean of value 2", extra_key(raw_key("b", bool_type, "\x02"))},
    {"no such type", "unknown value type 13", extra_key(raw_key("b", 13, "0"))},
    {"an array of arrays", "array inside",
     extra_key(
         raw_key("b", array_type,
                 raw(array_type) + raw(uint64_t{1}) + raw(u8_type) + raw(uint64_t{1}) + "1"))},
    {"a long array", "67108865 elements",
     extra_key(raw_key("b", array_type, raw(u8_type) + raw((uint64_t{1} << 26) + 1)))},
    {"a lying array", "ends inside",
     extra_key(raw_key("b", array_type, raw(u64_type) + raw(uint64_t{100'000})))},
    {"an empty key", "empty key", extra_key(raw_key("", u8_type, "x"))},
    {"overlong UTF-8", "UTF-8", extra_key(raw_key("b", string_type, raw_string("\xC0\x80")))},
    {"a surrogate", "UTF-8", extra_key(raw_key("b", string_type, raw_string("\xED\xA0\x80")))},
    {"beyond Unicode", "UTF-8",
     extra_key(raw_key("b", string_type, raw_string("\xF4\x90\x80\x80")))},
    {"half a character", "UTF-8", extra_key(raw_key("b", string_type, raw_string("\xE2\x82")))},
    {"alignment 0", "alignment", extra_key(raw_key("general.alignment", u32_type, raw(0u)))},
    {"alignment 48", "alignment", extra_key(raw_key("general.alignment", u32_type, raw(48u)))},
    {"alignment 8192", "alignment", extra_key(raw_key("general.alignment", u32_type, raw(8192u)))},
    {"alignment as text", "alignment",
     extra_key(raw_key("general.alignment", string_type, raw_string("32")))},
    {"a tensor twice", "'first' occurs twice", second("first", {32, 2}, TensorType::q8_0, 32)},
    {"a zero dimension", "zero or too large", second("x", {32, 0}, TensorType::q8_0, 32)},
    {"wrapping dimensions", "zero or too large",
     second("x", {uint64_t{1} << 32, uint64_t{1} << 32}, TensorType::f32, 32)},
    {"five dimensions", "5 dimensions", second("x", {32, 1, 1, 1, 2}, TensorType::q8_0, 32)},
    {"no dimension", "0 dimensions", second("x", {}, TensorType::q8_0, 32)},
    {"half a group", "do not divide", second("x", {33, 2}, TensorType::q8_0, 32)},
    {"a removed type", "unknown type 4", second("x", {32, 2}, static_cast<TensorType>(4), 32)},
    {"an overlap", "said to begin at 0", second("x", {32, 2}, TensorType::q8_0, 0)},
    {"a gap", "said to begin at 64", second("x", {32, 2}, TensorType::q8_0, 64)},
    {"past the end", "ends inside tensor", second("x", {32, 200}, TensorType::q8_0, 32)},
    {"a long name", "at most 127", second(std::string(128, 'x'), {32, 2}, TensorType::q8_0, 32)},
    {"an empty name", "empty tensor name", second("", {32, 2}, TensorType::q8_0, 32)},
    {"trailing bytes", "bytes follow", [](GgufBytes& file) { file.data += std::string(64, 'x'); }},
};

// Sums and counts near the ends of their types, at every place of the header.
void check_extreme_fields() {
    const std::string bytes = sound_file().assemble();
    const uint64_t header_bytes = parse(bytes, bytes.size()).data_offset;
    for (size_t place = 0; place + 8 <= header_bytes; ++place)
        for (const uint64_t extreme :
             {uint64_t{0}, uint64_t{1}, (uint64_t{1} << 31) - 1, (uint64_t{1} << 31) + 1,
              (uint64_t{1} << 32) - 1, (uint64_t{1} << 32) + 1, (uint64_t{1} << 63) - 1,
              uint64_t{1} << 63, ~uint64_t{0}}) {
            current_case = std::to_string(extreme) + " at " + std::to_string(place);
            std::string damaged = bytes;
            damaged.replace(place, 8, raw(extreme));
            bool ended_well = true;
            try {
                parse(damaged, damaged.size());
            } catch (const FileFault& fault) {
                ended_well = fault.offset() <= damaged.size();
            }
            check(ended_well, "the fault is outside the file");
        }
}

}  // namespace

int main() {
    check_sound_file();
    check_every_prefix();
    for (const Damage& damage : damages) {
        GgufBytes file = sound_file();
        damage.apply(file);
        check_refused(damage.name, file.assemble(), damage.reason);
    }
    check_extreme_fields();
    return verdict();
}
