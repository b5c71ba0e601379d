#include "shape_bindings.h"

#include <pybind11/stl.h>

#include "experts.h"
#include "from_words.h"

namespace py = pybind11;

namespace edge {

void register_shapes(py::module_& m) {
    py::class_<ExpertCounts>(m, "ExpertCounts")
        .def_readonly("pairs", &ExpertCounts::pairs)
        .def_readonly("touched", &ExpertCounts::touched);
    py::class_<ExpertShape>(m, "ExpertShape")
        .def(py::init(&make_experts), py::kw_only(), py::arg("num_experts"), py::arg("num_used"),
             py::arg("size"), py::arg("shared_size"), py::arg("num_dense_layers"),
             py::arg("scores"), py::arg("renormalises"), py::arg("bias_counts"), py::arg("scale"),
             py::arg("num_groups"), py::arg("num_used_groups"));
    py::class_<DenoiserShape>(m, "DenoiserShape")
        .def(py::init(&make_shape), py::kw_only(), py::arg("hidden_size"), py::arg("num_layers"),
             py::arg("num_heads"), py::arg("num_kv_heads"), py::arg("head_dim"),
             py::arg("feed_forward_size"), py::arg("vocab_size"), py::arg("context_length"),
             py::arg("rms_norm_eps"), py::arg("rope_theta"), py::arg("rope_pairs"),
             py::arg("qkv_bias") = false, py::arg("qk_norm") = false, py::arg("gate_rank") = 0,
             py::arg("rope_frequencies") = std::vector<double>(), py::arg("rope_magnitude") = 1.0,
             py::arg("query_scale") = 0.0, py::arg("query_scale_length") = 1,
             py::arg("rotary_dims") = 0, py::arg("experts") = py::none());
}

}  // namespace edge
