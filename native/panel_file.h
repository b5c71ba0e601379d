// The side file: a model's panels, packed once, mapped read-only ever after.
//
//   header     128 bytes: magic, version, layout, the source's size and hash, counts
//   table      an entry of 192 bytes per tensor: name, shape, type of panel, place, checksum
//   zeros      up to a multiple of 4096
//   data       panels.h's run of bytes per tensor, one after the other
//
// Nothing in it is parsed: what header and table must be follows from the source file, so they are
// compared with that, byte for byte, and the data with the checksums. Numbers are little endian.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "panels.h"
#include "thread_pool.h"

namespace edge {

// Raised when panels.h or the kernels' panels change.
constexpr uint32_t panel_layout = 1;

using PanelList = std::vector<std::shared_ptr<Panels>>;

// The file whose panels these are.
struct PanelSource {
    uint64_t size_bytes;
    std::array<std::byte, 32> hash;
};

// Pack into a new file, one tensor in memory at a time. Throws std::system_error.
void write_panel_file(const std::string& path, const PanelSource& source, const PanelList& panels,
                      ThreadPool& pool);

class PanelFile {
public:
    // Maps the file and reads it all once. Throws FileFault when it is not exactly what
    // write_panel_file would write, std::system_error when it cannot be opened.
    PanelFile(const std::string& path, const PanelSource& source, const PanelList& panels,
              ThreadPool& pool);
    ~PanelFile();
    PanelFile(const PanelFile&) = delete;
    PanelFile& operator=(const PanelFile&) = delete;

    // Make all panels refer to the mapping, which must outlive them.
    void place(const PanelList& panels) const;

private:
    void check(const PanelSource& source, const PanelList& panels, ThreadPool& pool) const;

    uint64_t size_ = 0;
    const std::byte* mapping_ = nullptr;
};

}  // namespace edge
