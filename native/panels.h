// A quantized tensor's weights interleaved into panels (kernels.h says how), wherever those bytes
// are: in memory of their own, or in a mapped side file (panel_file.h). A tensor of three
// dimensions is several matrices one after the other, each in whole panels.
//
// One run of bytes: lines [panels][...], then the scales' halves and whole numbers, then the
// minima's, each part at a multiple of 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "aligned.h"
#include "group_codes.h"
#include "kernels/kernels.h"
#include "model_file.h"
#include "thread_pool.h"

namespace edge {

class Panels {
public:
    // `file` must stay mapped until the panels are packed.
    Panels(const ModelFile& file, const TensorInfo& tensor, const GroupCode& code);

    const TensorInfo& tensor() const { return tensor_; }
    const GroupCode& code() const { return code_; }
    int64_t num_matrices() const { return num_matrices_; }
    int64_t num_outputs() const { return num_outputs_; }  // of a matrix
    int64_t depth() const { return depth_; }
    int64_t num_bytes() const { return parts_.end; }  // a multiple of line_bytes

    // Write all of them to `out`, zeros before; the file's pages of the tensor are let go.
    void pack(std::byte* out, ThreadPool& pool) const;

    // Where they are from now on.
    void keep(AlignedBytes packed);
    void refer_to(const std::byte* packed) { packed_ = packed; }
    bool are_placed() const { return packed_ != nullptr; }

    int64_t panels_per_matrix() const { return (num_outputs_ + panel_cols - 1) / panel_cols; }
    Panel panel(int64_t index) const;

private:
    struct ScaleParts {
        int64_t halves, whole;  // offsets
    };
    // Offsets from the beginning.
    struct Parts {
        ScaleParts scales, minima;
        int64_t end;
    };

    int64_t num_panels() const { return num_matrices_ * panels_per_matrix(); }
    int64_t panel_bytes() const { return depth_ * panel_cols * code_.bits / 8; }
    Parts find_parts() const;
    PanelScales of_panel(const ScaleParts& parts, int64_t index) const;
    void pack_panel(std::byte* out, int64_t index) const;
    void place(std::byte* out, const UnpackedBlock& block, int64_t first_k, int64_t panel,
               int column) const;
    void place_scales(std::byte* out, const ScaleParts& parts, const uint16_t* halves,
                      const int8_t* whole, int64_t first_k, int64_t panel, int column) const;

    const ModelFile& file_;
    const TensorInfo& tensor_;
    GroupCode code_;
    int64_t num_matrices_;
    int64_t num_outputs_;
    int64_t depth_;
    int64_t row_bytes_;
    int64_t num_groups_;  // of a row
    int64_t num_halves_;
    Parts parts_;
    AlignedBytes owned_;
    const std::byte* packed_ = nullptr;
};

}  // namespace edge
