// The Python module edge._native: checks arguments, releases the GIL, calls. Nothing else.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "arrays.h"
#include "calibration_bindings.h"
#include "denoiser.h"
#include "dispatch.h"
#include "errors.h"
#include "from_words.h"
#include "model_limits.h"
#include "model_file.h"
#include "own_types.h"
#include "peak.h"
#include "quantize.h"
#include "shape_bindings.h"

namespace edge {
namespace {

ByteArray quantize(const std::string& type_name, const FloatArray& values, int64_t group_size,
                   bool has_minima) {
    if (values.ndim() != 2) throw std::invalid_argument("values must be [rows, cols]");
    const int64_t rows = values.shape(0);
    const int64_t cols = values.shape(1);
    const StoredType type = writable_type(type_name, cols, group_size, has_minima);
    const auto size = static_cast<int64_t>(*row_bytes(type, static_cast<uint64_t>(cols)));
    ByteArray stored({rows, size});
    auto* out = reinterpret_cast<std::byte*>(stored.mutable_data());
    const float* in = values.data();
    const py::gil_scoped_release release;
    for (int64_t row = 0; row < rows; ++row)
        quantize_row(type, in + row * cols, cols, out + row * size);
    return stored;
}

FloatArray dequantize(const std::string& type_name, const ByteArray& stored, int64_t cols,
                      int64_t group_size, bool has_minima) {
    const StoredType type = readable_type(type_name, cols, group_size, has_minima);
    const auto size = static_cast<int64_t>(*row_bytes(type, static_cast<uint64_t>(cols)));
    if (stored.ndim() != 2 || stored.shape(1) != size)
        throw std::invalid_argument("stored must be [rows, " + std::to_string(size) + "]");
    const int64_t rows = stored.shape(0);
    FloatArray values({rows, cols});
    const auto* in = reinterpret_cast<const std::byte*>(stored.data());
    float* out = values.mutable_data();
    const py::gil_scoped_release release;
    for (int64_t row = 0; row < rows; ++row)
        dequantize_row(type, in + row * size, cols, out + row * cols);
    return values;
}

template <typename Element>
py::object numeric_array(const std::vector<Element>& values) {
    return py::array_t<Element>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::object to_python(const Value& value) {
    return std::visit(
        [](const auto& held) -> py::object {
            using Held = std::decay_t<decltype(held)>;
            if constexpr (std::is_same_v<Held, std::vector<int64_t>> ||
                          std::is_same_v<Held, std::vector<uint64_t>> ||
                          std::is_same_v<Held, std::vector<double>>) {
                return numeric_array(held);
            } else {
                return py::cast(held);
            }
        },
        value);
}

py::dict metadata_of(const ModelFile& file) {
    py::dict metadata;
    for (const KeyValue& pair : file.header().metadata)
        metadata[py::str(pair.key)] = to_python(pair.value);
    return metadata;
}

py::dict tensors_of(const ModelFile& file) {
    py::dict tensors;
    for (const TensorInfo& tensor : file.header().tensors) tensors[py::str(tensor.name)] = tensor;
    return tensors;
}

py::tuple identity_of(const ModelFile& file) {
    const FileIdentity& id = file.identity();
    return py::make_tuple(id.inode, id.modified_ns, id.changed_ns);
}

FloatArray read_rows(const ModelFile& file, const std::string& name, int64_t first, int64_t count) {
    const TensorInfo* tensor = file.find(name);
    if (tensor == nullptr) throw py::key_error(name);
    if (!can_dequantize(tensor->type))
        throw std::invalid_argument("'" + name + "' has a type that cannot be read");
    const auto rows = static_cast<int64_t>(tensor->rows());
    if (first < 0 || count < 0 || first > rows || count > rows - first)
        throw py::index_error("rows outside the tensor");
    const auto cols = static_cast<int64_t>(tensor->cols());
    const int64_t size = static_cast<int64_t>(tensor->num_bytes) / rows;
    const std::byte* stored = file.bytes_of(*tensor) + first * size;
    FloatArray values({count, cols});
    float* out = values.mutable_data();
    for (int64_t row = 0; row < count; ++row)
        dequantize_row(tensor->type, stored + row * size, cols, out + row * cols);
    return values;
}

std::unique_ptr<Denoiser> make_denoiser(std::shared_ptr<ModelFile> file, const DenoiserShape& shape,
                                        int threads, const std::string& activations,
                                        const std::string& kv, const std::string& isa, bool pack) {
    if (threads < 1 || threads > 1024)
        throw std::invalid_argument("threads must be between 1 and 1024");
    if (!file->is_mapped())
        throw std::invalid_argument("the model file was opened without its tensors");
    const EngineOptions options{threads, make_activations(activations), make_kv(kv), isa, pack};
    const py::gil_scoped_release release;
    return std::make_unique<Denoiser>(std::move(file), shape, options);
}

// A method that takes a side file's path, and the size and SHA-256 of the model file it is of.
template <void (Denoiser::*method)(const std::string&, const PanelSource&)>
void with_panel_file(Denoiser& denoiser, const std::string& path, uint64_t size_bytes,
                     const std::string& hash) {
    PanelSource source{size_bytes, {}};
    if (hash.size() != source.hash.size()) throw std::invalid_argument("a hash has 32 bytes");
    std::memcpy(source.hash.data(), hash.data(), hash.size());
    const py::gil_scoped_release release;
    (denoiser.*method)(path, source);
}

StepOutput step(Denoiser& denoiser, const IntArray& ids, const IntArray& positions,
                const IntArray& head_rows, const IntArray& gated_rows,
                const std::vector<std::pair<int64_t, int64_t>>& branches, KvCache* cache,
                bool store, int64_t num_stored, const AttentionMask& mask, const HeadOptions& head,
                const IntArray& guidance_ids, float guidance_scale, const CancelFlag* cancel,
                int64_t deadline_ns) {
    const StepInput input{to_vector(ids),
                          to_vector(positions),
                          to_vector(head_rows),
                          to_vector(gated_rows),
                          make_branches(branches),
                          cache,
                          store,
                          num_stored,
                          mask,
                          head,
                          {to_vector(guidance_ids), guidance_scale},
                          cancel,
                          deadline_ns};
    const py::gil_scoped_release release;
    return denoiser.step(input);
}

FloatArray logits(Denoiser& denoiser, const IntArray& ids, const AttentionMask& mask,
                  const IntArray& gated_rows) {
    const std::vector<int32_t> tokens = to_vector(ids);
    const std::vector<int32_t> gated = to_vector(gated_rows);
    FloatArray out({static_cast<int64_t>(tokens.size()), denoiser.shape().vocab_size});
    float* data = out.mutable_data();
    const py::gil_scoped_release release;
    denoiser.logits(tokens, mask, gated, data);
    return out;
}

// One array per field of the rows.
template <typename Field>
py::array_t<Field> column(const StepOutput& output, Field HeadRow::* field) {
    py::array_t<Field> values(static_cast<py::ssize_t>(output.rows.size()));
    for (size_t i = 0; i < output.rows.size(); ++i)
        values.mutable_data()[i] = output.rows[i].*field;
    return values;
}

template <bool keys>
FloatArray cached(const KvCache& cache, int64_t position) {
    if (position < 0 || position >= cache.capacity())
        throw py::index_error("position beyond the cache");
    FloatArray rows({cache.num_layers(), cache.width()});
    std::vector<float> others(static_cast<size_t>(cache.width()));
    for (int64_t layer = 0; layer < cache.num_layers(); ++layer) {
        float* row = rows.mutable_data() + layer * cache.width();
        cache.load(layer, position, keys ? row : others.data(), keys ? others.data() : row);
    }
    return rows;
}

std::unique_ptr<KvCache> make_cache(const Denoiser& denoiser, int64_t capacity) {
    if (capacity < 1 || capacity > denoiser.shape().context_length)
        throw std::invalid_argument("a cache's capacity is between 1 and the context length");
    return std::make_unique<KvCache>(denoiser.shape().num_layers, denoiser.shape().attention,
                                     capacity);
}

void reserve_in_cache(KvCache& cache, int64_t capacity) {
    if (capacity > int64_t{1} << 28)  // the longest context that a file may have
        throw std::invalid_argument("a cache's capacity is at most 2^28");
    cache.reserve(capacity);
}

py::dict limits_dict() {
    using namespace py::literals;
    return py::dict("max_keys"_a = limits::max_keys, "max_tensors"_a = limits::max_tensors,
                    "max_key_bytes"_a = limits::max_key_bytes,
                    "max_string_bytes"_a = limits::max_string_bytes,
                    "max_tokenizer_bytes"_a = limits::max_tokenizer_bytes,
                    "max_array_string_bytes"_a = limits::max_array_string_bytes,
                    "max_array_elements"_a = limits::max_array_elements,
                    "max_tensor_name_bytes"_a = limits::max_tensor_name_bytes,
                    "max_dimensions"_a = limits::max_dimensions,
                    "max_tensor_elements"_a = limits::max_tensor_elements,
                    "max_alignment"_a = limits::max_alignment);
}

void register_errors(py::module_& m) {
    static py::handle file_fault =
        PyErr_NewException("edge._native.FileFault", PyExc_ValueError, nullptr);
    static py::handle unsupported =
        PyErr_NewException("edge._native.UnsupportedFault", PyExc_ValueError, nullptr);
    static py::handle numeric =
        PyErr_NewException("edge._native.NumericFault", PyExc_ArithmeticError, nullptr);
    m.attr("FileFault") = file_fault;
    m.attr("UnsupportedFault") = unsupported;
    m.attr("NumericFault") = numeric;
    py::register_exception_translator([](std::exception_ptr pending) {
        try {
            if (pending) std::rethrow_exception(pending);
        } catch (const FileFault& fault) {
            PyErr_SetObject(file_fault.ptr(), py::make_tuple(fault.offset(), fault.what()).ptr());
        } catch (const UnsupportedFault& fault) {
            PyErr_SetString(unsupported.ptr(), fault.what());
        } catch (const NumericFault& fault) {
            PyErr_SetString(numeric.ptr(), fault.what());
        } catch (const std::system_error& error) {
            errno = error.code().value();
            PyErr_SetFromErrno(PyExc_OSError);
        }
    });
}

void register_files(py::module_& m) {
    py::class_<TensorInfo>(m, "TensorInfo")
        .def_readonly("name", &TensorInfo::name)
        .def_property_readonly(
            "type", [](const TensorInfo& t) { return std::string(layout_of(t.type.id).name); })
        .def_property_readonly("shape",
                               [](const TensorInfo& t) { return py::tuple(py::cast(t.shape)); })
        .def_property_readonly("group_size", [](const TensorInfo& t) { return t.type.group_size; })
        .def_property_readonly("has_minima", [](const TensorInfo& t) { return t.type.has_minima; })
        .def_readonly("offset", &TensorInfo::offset)
        .def_readonly("num_bytes", &TensorInfo::num_bytes);
    py::class_<ModelFile, std::shared_ptr<ModelFile>>(m, "ModelFile")
        .def(py::init<const std::string&, bool>(), py::arg("path"), py::arg("map_tensors") = true,
             py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("metadata", metadata_of)
        .def_property_readonly("tensors", tensors_of)
        .def_property_readonly("size_bytes", &ModelFile::size_bytes)
        .def_property_readonly("data_offset",
                               [](const ModelFile& f) { return f.header().data_offset; })
        .def_property_readonly("alignment", [](const ModelFile& f) { return f.header().alignment; })
        .def_property_readonly("identity", identity_of)
        .def(
            "read_bytes",
            [](const ModelFile& f, uint64_t offset, uint64_t count) {
                return py::bytes(f.read_bytes(offset, count));
            },
            py::arg("offset"), py::arg("count"))
        .def("read_rows", read_rows, py::arg("name"), py::arg("first"), py::arg("count"));
    m.def("quantize", quantize, py::arg("type"), py::arg("values").noconvert(),
          py::arg("group_size") = 0, py::arg("has_minima") = false);
    m.def("dequantize", dequantize, py::arg("type"), py::arg("stored").noconvert(), py::arg("cols"),
          py::arg("group_size") = 0, py::arg("has_minima") = false);
    m.def("limits", limits_dict);
}

void register_step_types(py::module_& m) {
    py::class_<CancelFlag>(m, "CancelFlag")
        .def(py::init([] { return std::make_unique<CancelFlag>(false); }))
        .def("set", [](CancelFlag& flag) { flag = true; })
        .def("is_set", [](const CancelFlag& flag) { return flag.load(); });
    py::class_<AttentionMask>(m, "AttentionMask")
        .def(py::init(&make_mask), py::arg("kind") = "full", py::arg("block_length") = 0,
             py::arg("origin") = 0);
    py::class_<HeadOptions>(m, "HeadOptions")
        .def(py::init([](int64_t num_choices, std::vector<int32_t> forbidden, float temperature,
                         uint64_t seed, uint32_t draw, int64_t top_k, float top_p,
                         const IntArray& bias_starts, const IntArray& bias_ids,
                         const FloatArray& bias_values) {
                 LogitBias bias{to_vector(bias_starts), to_vector(bias_ids),
                                to_vector(bias_values)};
                 return HeadOptions{
                     num_choices, std::move(forbidden), temperature, seed, draw, top_k,
                     top_p,       std::move(bias)};
             }),
             py::arg("num_choices") = 0, py::arg("forbidden") = std::vector<int32_t>{},
             py::arg("temperature") = 0.0f, py::arg("seed") = 0, py::arg("draw") = 0,
             py::arg("top_k") = 0, py::arg("top_p") = 1.0f,
             py::arg("bias_starts").noconvert() = IntArray(0),
             py::arg("bias_ids").noconvert() = IntArray(0),
             py::arg("bias_values").noconvert() = FloatArray(0));
    py::class_<KvCache>(m, "KvCache")
        .def(py::init(&make_cache), py::arg("denoiser"), py::arg("capacity"))
        .def("truncate", &KvCache::truncate, py::arg("length"))
        .def("reserve", &reserve_in_cache, py::arg("capacity"))
        .def("valid",
             [](const KvCache& c) { return numeric_array(c.valid()).attr("view")("bool"); })
        .def("keys", cached<true>, py::arg("position"))
        .def("values", cached<false>, py::arg("position"));
    py::class_<StepOutput> output(m, "StepOutput");
    output.def_readonly("cancelled", &StepOutput::cancelled)
        .def_readonly("layers_done", &StepOutput::layers_done)
        .def_readonly("experts", &StepOutput::experts);
    const auto add_time = [&](const char* name, auto part) {
        output.def_property_readonly(name, [part](const StepOutput& o) { return o.times.*part; });
    };
    const auto add_column = [&](const char* name, auto field) {
        output.def_property_readonly(name, [=](const StepOutput& o) { return column(o, field); });
    };
    add_time("gemm_ns", &StepTimes::gemm_ns);
    add_time("attention_ns", &StepTimes::attention_ns);
    add_time("quantize_ns", &StepTimes::quantize_ns);
    add_time("head_ns", &StepTimes::head_ns);
    add_time("other_ns", &StepTimes::other_ns);
    add_column("top1", &HeadRow::top1);
    add_column("sampled", &HeadRow::sampled);
    add_column("top1_logit", &HeadRow::top1_logit);
    add_column("top2_logit", &HeadRow::top2_logit);
    add_column("sampled_logit", &HeadRow::sampled_logit);
    add_column("log_z", &HeadRow::log_z);
    add_column("entropy", &HeadRow::entropy);
    add_column("plain_top1", &HeadRow::plain_top1);
    add_column("plain_top1_logit", &HeadRow::plain_top1_logit);
    add_column("plain_log_z", &HeadRow::plain_log_z);
}

void register_denoiser(py::module_& m) {
    py::class_<Denoiser>(m, "Denoiser")
        .def(py::init(&make_denoiser), py::arg("file"), py::arg("shape"), py::arg("threads"),
             py::arg("activations") = "int8", py::arg("kv") = "auto", py::arg("isa") = "",
             py::arg("pack") = true)
        .def_property_readonly(
            "kv", [](const Denoiser& d) { return to_word(d.shape().attention.format); })
        .def(
            "cache_bytes",
            [](const Denoiser& d, int64_t capacity) {
                return KvCache::num_bytes(d.shape().num_layers, d.shape().attention, capacity);
            },
            py::arg("capacity"))
        .def_property_readonly("panel_bytes", &Denoiser::panel_bytes)
        .def("pack_panels", &Denoiser::pack_panels, py::call_guard<py::gil_scoped_release>())
        .def("write_panels", with_panel_file<&Denoiser::write_panels>, py::arg("path"),
             py::arg("size_bytes"), py::arg("hash"))
        .def("map_panels", with_panel_file<&Denoiser::map_panels>, py::arg("path"),
             py::arg("size_bytes"), py::arg("hash"))
        .def_property_readonly("isa", [](const Denoiser& d) { return std::string(d.isa()); })
        .def("step", step, py::arg("ids").noconvert(), py::arg("positions").noconvert(),
             py::arg("head_rows").noconvert(), py::kw_only(),
             py::arg("gated_rows").noconvert() = IntArray(0),
             py::arg("branches") = std::vector<std::pair<int64_t, int64_t>>{},
             py::arg("cache") = nullptr, py::arg("store") = false, py::arg("num_stored") = 0,
             py::arg("mask") = AttentionMask{}, py::arg("head") = HeadOptions{},
             py::arg("guidance_ids").noconvert() = IntArray(0), py::arg("guidance_scale") = 0.0f,
             py::arg("cancel") = nullptr, py::arg("deadline_ns") = 0)
        .def("logits", logits, py::arg("ids").noconvert(), py::arg("mask") = AttentionMask{},
             py::arg("gated_rows").noconvert() = IntArray(0));
    m.def("supported_isas", supported_isas);
    m.attr("PANEL_LAYOUT") = panel_layout;
    // For tests: with 0 small denoisers use all their threads too.
    m.def("set_shortest_shared_ns", [](int64_t ns) { shortest_shared_ns = ns; }, py::arg("ns"));
    py::class_<PeakRates>(m, "PeakRates")
        .def_readonly("int8_gops", &PeakRates::int8_gops)
        .def_readonly("float_gops", &PeakRates::float_gops)
        .def_readonly("bf16_gops", &PeakRates::bf16_gops)
        .def_readonly("clock_ghz", &PeakRates::clock_ghz);
    m.def("measure_read_rate", measure_read_rate, py::arg("threads"),
          py::call_guard<py::gil_scoped_release>());
    m.def("measure_peak", measure_peak, py::arg("threads"), py::arg("isa") = "",
          py::call_guard<py::gil_scoped_release>());
}

}  // namespace
}  // namespace edge

PYBIND11_MODULE(_native, m) {
    m.doc() = "Model files, quantizers and the denoiser's forward, in C++.";
    edge::register_errors(m);
    edge::register_files(m);
    edge::register_step_types(m);
    edge::register_shapes(m);
    edge::register_denoiser(m);
    edge::register_calibration(m);
}
