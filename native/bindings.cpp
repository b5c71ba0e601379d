// The Python module edge._native: checks arguments, releases the GIL, calls. Nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "denoiser.h"
#include "dispatch.h"
#include "errors.h"
#include "model_limits.h"
#include "model_file.h"
#include "peak.h"
#include "quantize.h"

namespace py = pybind11;

namespace edge {
namespace {

using IntArray = py::array_t<int32_t, py::array::c_style>;
using FloatArray = py::array_t<float, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;

std::vector<int32_t> to_vector(const IntArray& array) {
    if (array.ndim() != 1) throw std::invalid_argument("a one-dimensional array is wanted");
    return {array.data(), array.data() + array.size()};
}

TensorType known_type(const std::string& name, bool (*is_known)(TensorType)) {
    const TypeLayout* layout = find_type(name);
    if (layout == nullptr || !is_known(layout->type))
        throw std::invalid_argument("'" + name + "' is no type that this can be done with");
    return layout->type;
}

int64_t stored_row_bytes(TensorType type, int64_t cols) {
    const auto bytes = row_bytes(layout_of(type), static_cast<uint64_t>(cols));
    if (!bytes) throw std::invalid_argument("the type's group size does not divide the columns");
    return static_cast<int64_t>(*bytes);
}

ByteArray quantize(const std::string& type_name, const FloatArray& values) {
    const TensorType type = known_type(type_name, can_quantize);
    if (values.ndim() != 2) throw std::invalid_argument("values must be [rows, cols]");
    const int64_t rows = values.shape(0);
    const int64_t cols = values.shape(1);
    const int64_t size = stored_row_bytes(type, cols);
    ByteArray stored({rows, size});
    auto* out = reinterpret_cast<std::byte*>(stored.mutable_data());
    const float* in = values.data();
    const py::gil_scoped_release release;
    for (int64_t row = 0; row < rows; ++row)
        quantize_row(type, in + row * cols, cols, out + row * size);
    return stored;
}

FloatArray dequantize(const std::string& type_name, const ByteArray& stored, int64_t cols) {
    const TensorType type = known_type(type_name, can_dequantize);
    if (cols < 1) throw std::invalid_argument("cols must be positive");
    const int64_t size = stored_row_bytes(type, cols);
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

AttentionMask make_mask(const std::string& kind, int64_t block_length, int64_t origin) {
    constexpr int64_t most = int64_t{1} << 28;  // so that no position plus a block can wrap
    using Kind = AttentionMask::Kind;
    const bool in_range = std::abs(origin) <= most && block_length <= most;
    if (kind == "full") return {Kind::full, 0, 0};
    if (kind == "causal") return {Kind::causal, 0, 0};
    if (kind == "causal_context" && in_range) return {Kind::causal_context, 0, origin};
    if (kind == "block" && in_range && block_length > 0) return {Kind::block, block_length, origin};
    throw std::invalid_argument(
        "a mask is 'full', 'causal', 'causal_context' with an origin, or 'block' with a positive "
        "block_length; neither above 2^28");
}

Activations make_activations(const std::string& name) {
    if (name == "int8") return Activations::int8;
    if (name == "f32") return Activations::f32;
    throw std::invalid_argument("activations are 'int8' or 'f32', not '" + name + "'");
}

RopePairs make_pairs(const std::string& name) {
    if (name == "halves") return RopePairs::halves;
    if (name == "adjacent") return RopePairs::adjacent;
    throw std::invalid_argument("rope pairs are 'halves' or 'adjacent', not '" + name + "'");
}

// Kernels divide and allocate by these, so the border checks them whatever the caller did.
DenoiserShape make_shape(int64_t hidden_size, int64_t num_layers, int64_t num_heads,
                         int64_t num_kv_heads, int64_t head_dim, int64_t feed_forward_size,
                         int64_t vocab_size, int64_t context_length, float rms_norm_eps,
                         double rope_theta, const std::string& rope_pairs, bool qkv_bias,
                         bool qk_norm) {
    for (const int64_t size : {hidden_size, num_layers, num_heads, num_kv_heads, head_dim,
                               feed_forward_size, vocab_size, context_length})
        if (size < 1 || size > int64_t{1} << 28)
            throw std::invalid_argument("a size is not between 1 and 2^28");
    if (num_heads % num_kv_heads != 0)
        throw std::invalid_argument("num_kv_heads must divide num_heads");
    if (head_dim % 2 != 0) throw std::invalid_argument("head_dim must be even");
    if (!(rms_norm_eps > 0.0f) || !(rope_theta > 0.0) || !std::isfinite(rope_theta))
        throw std::invalid_argument("rms_norm_eps and rope_theta must be positive");
    return {hidden_size,       num_layers, {num_heads, num_kv_heads, head_dim},
            feed_forward_size, vocab_size, context_length,
            rms_norm_eps,      rope_theta, make_pairs(rope_pairs),
            qkv_bias,          qk_norm};
}

std::unique_ptr<Denoiser> make_denoiser(std::shared_ptr<ModelFile> file, const DenoiserShape& shape,
                                        int threads, const std::string& activations,
                                        const std::string& isa) {
    if (threads < 1 || threads > 1024)
        throw std::invalid_argument("threads must be between 1 and 1024");
    if (!file->is_mapped())
        throw std::invalid_argument("the model file was opened without its tensors");
    const Activations kind = make_activations(activations);
    const py::gil_scoped_release release;
    return std::make_unique<Denoiser>(std::move(file), shape, threads, kind, isa);
}

StepOutput step(Denoiser& denoiser, const IntArray& ids, const IntArray& positions,
                const IntArray& head_rows, KvCache* cache, bool store, const AttentionMask& mask,
                const HeadOptions& head, const IntArray& guidance_ids, float guidance_scale,
                const CancelFlag* cancel, int64_t deadline_ns) {
    const StepInput input{to_vector(ids),
                          to_vector(positions),
                          to_vector(head_rows),
                          cache,
                          store,
                          mask,
                          head,
                          {to_vector(guidance_ids), guidance_scale},
                          cancel,
                          deadline_ns};
    const py::gil_scoped_release release;
    return denoiser.step(input);
}

FloatArray logits(Denoiser& denoiser, const IntArray& ids, const AttentionMask& mask) {
    const std::vector<int32_t> tokens = to_vector(ids);
    FloatArray out({static_cast<int64_t>(tokens.size()), denoiser.shape().vocab_size});
    float* data = out.mutable_data();
    const py::gil_scoped_release release;
    denoiser.logits(tokens, mask, data);
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
FloatArray cached(KvCache& cache, int64_t position) {
    if (position < 0 || position >= cache.capacity())
        throw py::index_error("position beyond the cache");
    FloatArray rows({cache.num_layers(), cache.width()});
    for (int64_t layer = 0; layer < cache.num_layers(); ++layer)
        std::copy_n(keys ? cache.key(layer, position) : cache.value(layer, position), cache.width(),
                    rows.mutable_data() + layer * cache.width());
    return rows;
}

std::unique_ptr<KvCache> make_cache(const Denoiser& denoiser, int64_t capacity) {
    if (capacity < 1 || capacity > denoiser.shape().context_length)
        throw std::invalid_argument("a cache's capacity is between 1 and the context length");
    return std::make_unique<KvCache>(denoiser.shape().num_layers, denoiser.shape().kv_width(),
                                     capacity);
}

py::dict limits_dict() {
    py::dict all;
    all["max_keys"] = limits::max_keys;
    all["max_tensors"] = limits::max_tensors;
    all["max_key_bytes"] = limits::max_key_bytes;
    all["max_string_bytes"] = limits::max_string_bytes;
    all["max_tokenizer_bytes"] = limits::max_tokenizer_bytes;
    all["max_array_string_bytes"] = limits::max_array_string_bytes;
    all["max_array_elements"] = limits::max_array_elements;
    all["max_tensor_name_bytes"] = limits::max_tensor_name_bytes;
    all["max_dimensions"] = limits::max_dimensions;
    all["max_tensor_elements"] = limits::max_tensor_elements;
    all["max_alignment"] = limits::max_alignment;
    return all;
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
            "type", [](const TensorInfo& t) { return std::string(layout_of(t.type).name); })
        .def_property_readonly("shape",
                               [](const TensorInfo& t) { return py::tuple(py::cast(t.shape)); })
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
        .def("read_rows", read_rows, py::arg("name"), py::arg("first"), py::arg("count"));
    m.def("quantize", quantize, py::arg("type"), py::arg("values").noconvert());
    m.def("dequantize", dequantize, py::arg("type"), py::arg("stored").noconvert(),
          py::arg("cols"));
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
                         uint64_t seed, uint32_t draw, int64_t top_k, float top_p) {
                 return HeadOptions{
                     num_choices, std::move(forbidden), temperature, seed, draw, top_k, top_p};
             }),
             py::arg("num_choices") = 0, py::arg("forbidden") = std::vector<int32_t>{},
             py::arg("temperature") = 0.0f, py::arg("seed") = 0, py::arg("draw") = 0,
             py::arg("top_k") = 0, py::arg("top_p") = 1.0f);
    py::class_<KvCache>(m, "KvCache")
        .def(py::init(&make_cache), py::arg("denoiser"), py::arg("capacity"))
        .def(
            "truncate",
            [](KvCache& cache, int64_t length) { cache.truncate(std::max<int64_t>(0, length)); },
            py::arg("length"))
        .def("valid",
             [](const KvCache& cache) {
                 return py::array(py::dtype("bool"), static_cast<py::ssize_t>(cache.valid().size()),
                                  cache.valid().data());
             })
        .def("keys", cached<true>, py::arg("position"))
        .def("values", cached<false>, py::arg("position"));
    py::class_<StepOutput> output(m, "StepOutput");
    output.def_readonly("cancelled", &StepOutput::cancelled)
        .def_readonly("layers_done", &StepOutput::layers_done);
    const auto add = [&](const char* name, auto get) { output.def_property_readonly(name, get); };
    const auto add_time = [&](const char* name, auto part) {
        add(name, [part](const StepOutput& o) { return o.times.*part; });
    };
    const auto add_column = [&](const char* name, auto field) {
        add(name, [field](const StepOutput& o) { return column(o, field); });
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
}

void register_denoiser(py::module_& m) {
    py::class_<DenoiserShape>(m, "DenoiserShape")
        .def(py::init(&make_shape), py::kw_only(), py::arg("hidden_size"), py::arg("num_layers"),
             py::arg("num_heads"), py::arg("num_kv_heads"), py::arg("head_dim"),
             py::arg("feed_forward_size"), py::arg("vocab_size"), py::arg("context_length"),
             py::arg("rms_norm_eps"), py::arg("rope_theta"), py::arg("rope_pairs"),
             py::arg("qkv_bias") = false, py::arg("qk_norm") = false);
    py::class_<Denoiser>(m, "Denoiser")
        .def(py::init(&make_denoiser), py::arg("file"), py::arg("shape"), py::arg("threads"),
             py::arg("activations") = "int8", py::arg("isa") = "")
        .def_property_readonly("isa", [](const Denoiser& d) { return std::string(d.isa()); })
        .def("step", step, py::arg("ids").noconvert(), py::arg("positions").noconvert(),
             py::arg("head_rows").noconvert(), py::kw_only(), py::arg("cache") = nullptr,
             py::arg("store") = false, py::arg("mask") = AttentionMask{},
             py::arg("head") = HeadOptions{}, py::arg("guidance_ids").noconvert() = IntArray(0),
             py::arg("guidance_scale") = 0.0f, py::arg("cancel") = nullptr,
             py::arg("deadline_ns") = 0)
        .def("logits", logits, py::arg("ids").noconvert(), py::arg("mask") = AttentionMask{});
    m.def("supported_isas", supported_isas);
    // For tests: with 0 small denoisers use all their threads too.
    m.def("set_shortest_shared_ns", [](int64_t ns) { shortest_shared_ns = ns; }, py::arg("ns"));
    py::class_<PeakRates>(m, "PeakRates")
        .def_readonly("int8_gops", &PeakRates::int8_gops)
        .def_readonly("float_gops", &PeakRates::float_gops);
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
    edge::register_denoiser(m);
}
