#include "panel_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "descriptor.h"
#include "errors.h"

namespace edge {
namespace {

constexpr uint32_t version = 1;
constexpr uint64_t data_alignment = 4096;
constexpr int64_t chunk_bytes = 1 << 20;  // of a checksum

struct FileHeader {
    char magic[8];
    uint32_t version;
    uint32_t layout;
    uint64_t source_bytes;
    std::byte source_hash[32];
    uint64_t num_tensors;
    uint64_t file_bytes;
    std::byte zeros[56];
};
static_assert(sizeof(FileHeader) == 128);

struct FileEntry {
    char name[128];
    uint64_t offset;  // of the file
    uint64_t num_bytes;
    uint64_t num_outputs;
    uint64_t depth;
    uint64_t group;
    uint32_t bits;
    uint8_t is_fine;
    uint8_t has_minima;
    uint8_t zeros[2];
    uint64_t checksum;
    uint64_t more_zeros;
};
static_assert(sizeof(FileEntry) == 192);

// Everything before the data, checksums zero.
struct Preface {
    FileHeader header;
    std::vector<FileEntry> entries;

    uint64_t num_bytes() const {
        const uint64_t used = sizeof header + entries.size() * sizeof(FileEntry);
        return (used + data_alignment - 1) / data_alignment * data_alignment;
    }
    std::vector<std::byte> bytes() const {
        std::vector<std::byte> all(num_bytes());
        std::memcpy(all.data(), &header, sizeof header);
        if (!entries.empty())
            std::memcpy(all.data() + sizeof header, entries.data(),
                        entries.size() * sizeof(FileEntry));
        return all;
    }
};

FileEntry entry_of(const Panels& panels) {
    FileEntry entry{};
    const std::string& name = panels.tensor().name;
    std::memcpy(entry.name, name.data(), std::min(name.size(), sizeof entry.name));
    entry.num_bytes = static_cast<uint64_t>(panels.num_bytes());
    entry.num_outputs = static_cast<uint64_t>(panels.num_matrices() * panels.num_outputs());
    entry.depth = static_cast<uint64_t>(panels.depth());
    entry.group = static_cast<uint64_t>(panels.code().group);
    entry.bits = static_cast<uint32_t>(panels.code().bits);
    entry.is_fine = panels.code().is_fine;
    entry.has_minima = panels.code().has_minima;
    return entry;
}

Preface expected_preface(const PanelSource& source, const PanelList& panels) {
    Preface preface{{{'e', 'd', 'g', 'e', 'p', 'a', 'c', 'k'},
                     version,
                     panel_layout,
                     source.size_bytes,
                     {},
                     panels.size(),
                     0,
                     {}},
                    {}};
    std::copy(source.hash.begin(), source.hash.end(), preface.header.source_hash);
    for (const auto& tensor : panels) preface.entries.push_back(entry_of(*tensor));
    uint64_t end = preface.num_bytes();
    for (FileEntry& entry : preface.entries) {
        entry.offset = end;
        end += entry.num_bytes;
    }
    preface.header.file_bytes = end;
    return preface;
}

// One to one in either argument, so a single changed word always shows.
uint64_t mixed(uint64_t sum, uint64_t word) {
    const uint64_t product = (sum ^ word) * 0x9E3779B185EBCA87u;
    return product << 29 | product >> 35;
}

// Of whole lines, on eight lanes.
uint64_t checksum_of(const std::byte* bytes, int64_t count) {
    uint64_t lanes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (int64_t i = 0; i < count; i += 64) {
        uint64_t words[8];
        std::memcpy(words, bytes + i, sizeof words);
        for (int k = 0; k < 8; ++k) lanes[k] = mixed(lanes[k], words[k]);
    }
    uint64_t sum = static_cast<uint64_t>(count);
    for (const uint64_t lane : lanes) sum = mixed(sum, lane);
    return sum;
}

uint64_t checksum_of(const std::byte* bytes, int64_t count, ThreadPool& pool) {
    std::vector<uint64_t> parts(static_cast<size_t>((count + chunk_bytes - 1) / chunk_bytes));
    pool.run(static_cast<int64_t>(parts.size()), [&](int64_t chunk, int) {
        const int64_t begin = chunk * chunk_bytes;
        parts[static_cast<size_t>(chunk)] =
            checksum_of(bytes + begin, std::min(chunk_bytes, count - begin));
    });
    parts.resize((parts.size() + 7) / 8 * 8);  // whole lines
    return checksum_of(reinterpret_cast<const std::byte*>(parts.data()),
                       static_cast<int64_t>(parts.size() * sizeof parts[0]));
}

void refuse(const std::string& reason) { throw FileFault(0, "the packed weights " + reason); }

}  // namespace

void write_panel_file(const std::string& path, const PanelSource& source, const PanelList& panels,
                      ThreadPool& pool) {
    const Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW);
    Preface preface = expected_preface(source, panels);
    for (size_t i = 0; i < panels.size(); ++i) {
        FileEntry& entry = preface.entries[i];
        const AlignedBytes packed = allocate_aligned(panels[i]->num_bytes());
        panels[i]->pack(packed.get(), pool);
        entry.checksum = checksum_of(packed.get(), panels[i]->num_bytes(), pool);
        file.write(packed.get(), entry.num_bytes, entry.offset);
    }
    const std::vector<std::byte> bytes = preface.bytes();
    file.write(bytes.data(), bytes.size(), 0);
}

PanelFile::PanelFile(const std::string& path, const PanelSource& source, const PanelList& panels,
                     ThreadPool& pool) {
    const Descriptor file(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
    size_ = file.regular_size();
    if (size_ != expected_preface(source, panels).header.file_bytes)
        refuse("have another size than expected");
    mapping_ = file.map(size_);
    try {
        check(source, panels, pool);
    } catch (...) {
        ::munmap(const_cast<std::byte*>(mapping_), size_);
        throw;
    }
}

PanelFile::~PanelFile() { ::munmap(const_cast<std::byte*>(mapping_), size_); }

void PanelFile::check(const PanelSource& source, const PanelList& panels, ThreadPool& pool) const {
    Preface preface = expected_preface(source, panels);
    if (std::memcmp(mapping_, preface.header.magic, sizeof preface.header.magic) != 0)
        refuse("are something else");
    if (std::memcmp(mapping_, &preface.header, offsetof(FileHeader, source_bytes)) != 0)
        refuse("are of another version");
    if (std::memcmp(mapping_, &preface.header, sizeof preface.header) != 0)
        refuse("are another file's");
    for (size_t i = 0; i < panels.size(); ++i) {
        FileEntry& entry = preface.entries[i];
        entry.checksum = checksum_of(mapping_ + entry.offset, panels[i]->num_bytes(), pool);
    }
    const std::vector<std::byte> expected = preface.bytes();
    if (std::memcmp(mapping_, expected.data(), expected.size()) != 0) refuse("are damaged");
}

void PanelFile::place(const PanelList& panels) const {
    const std::byte* next = mapping_ + size_;
    for (auto tensor = panels.rbegin(); tensor != panels.rend(); ++tensor) {
        next -= (*tensor)->num_bytes();
        (*tensor)->refer_to(next);
    }
}

}  // namespace edge
