// A whole forward: the same numbers on every ISA and any number of threads, also after a fork.
#include "denoiser.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <memory>

#include "check.h"
#include "errors.h"
#include "gguf_bytes.h"
#include "tables.h"

using namespace edge;
using namespace edge::test;

namespace {

constexpr int64_t hidden = 64, wide = 96, vocab = 300;
const DenoiserShape shape{
    hidden, 2,     {4, 2, 16}, wide, vocab, 128, 1e-5f, 1e4, RopePairs::halves,
    16,     false, false,      0,    {},    1.0, {},    {}};

std::string model_bytes(TensorType type) {
    GgufBytes file;
    uint32_t seed = 100;
    const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
        file.add_tensor(name, type, rows, cols,
                        random_floats(static_cast<size_t>(rows * cols), ++seed, 0.2f));
    };
    const auto norm = [&](const std::string& name) {
        file.add_tensor(name, TensorType::f32, 0, hidden, std::vector<float>(hidden, 1.0f));
    };
    matrix("token_embd.weight", vocab, hidden);
    for (const char* layer : {"blk.0.", "blk.1."}) {
        const std::string prefix = layer;
        norm(prefix + "attn_norm.weight");
        matrix(prefix + "attn_q.weight", hidden, hidden);
        matrix(prefix + "attn_k.weight", shape.kv_width(), hidden);
        matrix(prefix + "attn_v.weight", shape.kv_width(), hidden);
        matrix(prefix + "attn_output.weight", hidden, hidden);
        norm(prefix + "ffn_norm.weight");
        matrix(prefix + "ffn_gate.weight", wide, hidden);
        matrix(prefix + "ffn_up.weight", wide, hidden);
        matrix(prefix + "ffn_down.weight", hidden, wide);
    }
    norm("output_norm.weight");
    return file.assemble();
}

StepInput first_positions(int count) {
    StepInput input;
    for (int i = 0; i < count; ++i) {
        input.ids.push_back(static_cast<int32_t>((i * 37 + 11) % vocab));
        input.positions.push_back(i);
        input.head_rows.push_back(i);
    }
    input.head.temperature = 0.7f;
    input.head.seed = 5;
    return input;
}

bool equal(const std::vector<HeadRow>& a, const std::vector<HeadRow>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(HeadRow)) == 0;
}

using File = std::shared_ptr<const ModelFile>;

constexpr KeyFormat formats[] = {KeyFormat::f32, KeyFormat::bf16, KeyFormat::int8};

EngineOptions with_threads(int count) {
    EngineOptions options;
    options.num_threads = count;
    return options;
}

void check_isas_and_threads(const File& file, const EngineOptions& common) {
    for (const int count : {1, 2, 13, 40}) {
        if (emulated_cpu() != nullptr && count > 13) continue;
        EngineOptions options = common;
        options.isa = "generic";
        Denoiser plain(file, shape, options);
        const auto expected = plain.step(first_positions(count)).rows;
        check(expected.size() == static_cast<size_t>(count), "another number of rows");
        for (const std::string& isa : supported_isas())
            for (const int threads : {1, 2, 5}) {
                current_case =
                    isa + " threads " + std::to_string(threads) + " rows " + std::to_string(count);
                options.num_threads = threads;
                options.isa = isa;
                Denoiser denoiser(file, shape, options);
                check(equal(denoiser.step(first_positions(count)).rows, expected),
                      "depends on ISA or threads");
            }
    }
}

// Causal rows do not see what follows, so a cache of the first ones changes nothing.
void check_cache(const File& file, KeyFormat format) {
    current_case = "a cached prefix, format " + std::to_string(static_cast<int>(format));
    EngineOptions options = with_threads(2);
    options.kv = format;
    Denoiser denoiser(file, shape, options);
    StepInput whole = first_positions(20);
    whole.mask.kind = AttentionMask::Kind::causal;
    const auto expected = denoiser.step(whole).rows;
    KvCache cache(shape.num_layers, denoiser.shape().attention, 64);
    StepInput prefix = first_positions(12);
    prefix.mask = whole.mask;
    prefix.cache = &cache;
    prefix.store = true;
    denoiser.step(prefix);
    StepInput rest = whole;
    rest.cache = &cache;
    rest.ids.erase(rest.ids.begin(), rest.ids.begin() + 12);
    rest.positions.erase(rest.positions.begin(), rest.positions.begin() + 12);
    rest.head_rows.resize(8);
    const auto rows = denoiser.step(rest).rows;
    check(equal(rows, {expected.begin() + 12, expected.end()}), "a cached key changes a row");
}

void check_cancelling(const File& file) {
    current_case = "a cancelled step";
    Denoiser denoiser(file, shape, with_threads(2));
    KvCache cache(shape.num_layers, denoiser.shape().attention, 64);
    CancelFlag cancel{true};
    StepInput input = first_positions(8);
    input.cache = &cache;
    input.store = true;
    input.cancel = &cancel;
    check(denoiser.step(input).cancelled, "does not stop");
    check(cache.valid()[0] == 0, "publishes keys of an unfinished step");
    cancel = false;
    input.deadline_ns = 1;
    check(denoiser.step(input).cancelled, "does not stop at the deadline");
}

bool has_threads(int count) {
    const std::filesystem::path tasks = "/proc/self/task";
    if (!std::filesystem::exists(tasks)) return true;  // cannot be known here
    return std::distance(std::filesystem::directory_iterator(tasks), {}) == count;
}

// A forked child has none of its parent's threads and must make its own. (qemu's own do not survive
// a fork: it aborts.)
void check_fork(const File& file) {
    if (emulated_cpu() != nullptr) return;
    current_case = "after a fork";
    Denoiser denoiser(file, shape, with_threads(3));
    const auto expected = denoiser.step(first_positions(30)).rows;
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        const bool as_before = equal(denoiser.step(first_positions(30)).rows, expected) &&
                               equal(denoiser.step(first_positions(30)).rows, expected);
        ::_exit(as_before && has_threads(3) ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child hangs or differs");
    check(equal(denoiser.step(first_positions(30)).rows, expected), "the parent differs");
}

template <typename Change>
void check_refused(Denoiser& denoiser, const char* name, Change change) {
    current_case = name;
    StepInput input = first_positions(4);
    change(input);
    bool refused = false;
    try {
        denoiser.step(input);
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    check(refused, "is not refused");
}

void check_impossible_input(const File& file) {
    Denoiser denoiser(file, shape, with_threads(1));
    check_refused(denoiser, "nothing", [](StepInput& s) { s = {}; });
    check_refused(denoiser, "id too large", [](StepInput& s) { s.ids[2] = vocab; });
    check_refused(denoiser, "negative id", [](StepInput& s) { s.ids[2] = -1; });
    check_refused(denoiser, "position beyond", [](StepInput& s) { s.positions[3] = 128; });
    check_refused(denoiser, "position twice", [](StepInput& s) { s.positions[1] = 0; });
    check_refused(denoiser, "head row beyond", [](StepInput& s) { s.head_rows[3] = 4; });
    check_refused(denoiser, "fewer positions", [](StepInput& s) { s.positions.pop_back(); });
    AttentionShape foreign = denoiser.shape().attention;
    foreign.format = KeyFormat::int8;
    KvCache bytes(shape.num_layers, foreign, 64);
    check_refused(denoiser, "another format's cache", [&](StepInput& s) { s.cache = &bytes; });
    check_refused(denoiser, "no cache", [](StepInput& s) { s.store = true; });
    check_refused(denoiser, "temperature", [](StepInput& s) { s.head.temperature = NAN; });
}

}  // namespace

int main() {
    shortest_shared_ns = 0;
    for (const TensorType type : {TensorType::f32, TensorType::q8_0, TensorType::q4_0,
                                  TensorType::int8, TensorType::int4}) {
        const TemporaryFile stored(model_bytes(type));
        const auto file = std::make_shared<const ModelFile>(stored.path(), true);
        for (const Activations kind : {Activations::int8, Activations::f32})
            for (const KeyFormat format : formats) {
                EngineOptions options;
                options.activations = kind;
                options.kv = format;
                check_isas_and_threads(file, options);
            }
        for (const KeyFormat format : formats) check_cache(file, format);
        check_cancelling(file);
        check_fork(file);
        check_impossible_input(file);
    }
    return verdict();
}
