#include "byte_reader.h"

#include <string_view>

namespace edge {
namespace {

struct Utf8Lead {
    int continuation_bytes;
    uint32_t bits;
    uint32_t smallest;  // smaller code points must be written shorter
};

// continuation_bytes is negative for a byte that cannot start a code point.
Utf8Lead classify(unsigned char lead) {
    if (lead < 0x80) return {0, lead, 0};
    if (lead >= 0xC2 && lead < 0xE0) return {1, lead & 0x1Fu, 0x80};
    if (lead >= 0xE0 && lead < 0xF0) return {2, lead & 0x0Fu, 0x800};
    if (lead >= 0xF0 && lead < 0xF5) return {3, lead & 0x07u, 0x10000};
    return {-1, 0, 0};
}

bool is_utf8(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
        const Utf8Lead lead = classify(static_cast<unsigned char>(text[i++]));
        if (lead.continuation_bytes < 0) return false;
        uint32_t code_point = lead.bits;
        for (int k = 0; k < lead.continuation_bytes; ++k, ++i) {
            if (i == text.size() || (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80)
                return false;
            code_point = code_point << 6 | (static_cast<unsigned char>(text[i]) & 0x3Fu);
        }
        const bool surrogate = code_point >= 0xD800 && code_point < 0xE000;
        if (code_point < lead.smallest || code_point > 0x10FFFF || surrogate) return false;
    }
    return true;
}

}  // namespace

std::string ByteReader::get_string(uint64_t limit, const char* what) {
    const uint64_t length = get<uint64_t>(what);
    if (length > limit)
        fail(std::string(what) + " of " + std::to_string(length) + " bytes, at most " +
             std::to_string(limit) + " are allowed");
    require(length, what);
    std::string text(reinterpret_cast<const char*>(data_ + offset_), length);
    if (!is_utf8(text)) fail(std::string(what) + " is not valid UTF-8");
    offset_ += length;
    return text;
}

}  // namespace edge
