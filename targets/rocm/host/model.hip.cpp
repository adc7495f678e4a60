// Written by q35c. A model on an AMD GPU: see q35_model.h.

#include "q35_model.h"

#include <hip/hip_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace {

/// What an argument of a kernel is.
enum class Kind : uint8_t { weight, tokens, logits, cache, input };

/// An argument: which tensor, half of a cache layer or array, or the bytes per row before a buffer of the arena.
struct Binding {
    Kind kind;
    uint64_t value;
};

/// A product of a number and run-time sizes; a count of tiles is a sum of them.
struct Term {
    uint64_t factor;
    uint32_t count;
    uint32_t dims[4];
};

/// A kernel and the most rows it is meant for, or -1.
struct Variant {
    int64_t max_rows;
    uint32_t kernel, terms, first_term;
};

/// One launch. `rows` is the run-time size that counts its rows.
struct Step {
    const char *node;
    uint32_t rows, variants, first_variant, bindings, first_binding;
};

/// A layer of the cache.
struct Layer {
    uint64_t kv_heads, key_dim, value_dim;
};

/// Kernels for an architecture, and the threads of their groups.
struct Level {
    const char *name, *file;
    const uint32_t *threads;
};

@TABLES@

constexpr uint64_t align = 64;
constexpr size_t inputs = 5;

uint64_t aligned(uint64_t bytes) { return (bytes + align - 1) / align * align; }

} // namespace

struct @PREFIX@q35_model {
    std::string error;
    hipModule_t module = nullptr;
    std::vector<hipFunction_t> functions;
    std::vector<void *> allocated;
    std::vector<char *> weights, caches;
    char *arena = nullptr, *arrays = nullptr;
    const Level *level = nullptr;
    uint64_t slots = 0, capacity = 0, max_tokens = 0;

    bool fail(const std::string &what) {
        error = what;
        return false;
    }

    bool done(hipError_t status, const std::string &doing) {
        return status == hipSuccess || fail(doing + ": " + hipGetErrorString(status));
    }

    bool allocate(char **start, uint64_t bytes, const std::string &what) {
        void *memory = nullptr;
        if (!done(hipMalloc(&memory, bytes ? bytes : 1), "memory for " + what)) return false;
        allocated.push_back(memory);
        *start = static_cast<char *>(memory);
        return done(hipMemset(memory, 0, bytes ? bytes : 1), "memory for " + what);
    }

    bool read(const std::string &path, std::vector<char> &bytes) {
        std::FILE *file = std::fopen(path.c_str(), "rb");
        if (!file) return fail(path + " cannot be opened");
        char buffer[1 << 16];
        size_t count;
        while ((count = std::fread(buffer, 1, sizeof buffer, file)) > 0) bytes.insert(bytes.end(), buffer, buffer + count);
        bool whole = !std::ferror(file);
        std::fclose(file);
        return whole || fail(path + " cannot be read");
    }

    /// Finds the code for the card.
    bool load(const std::string &folder) {
        hipDeviceProp_t properties;
        if (!done(hipSetDevice(0), "the card") || !done(hipGetDeviceProperties(&properties, 0), "the card")) return false;
        std::string name = properties.gcnArchName;
        name = name.substr(0, name.find(':'));
        for (const Level &candidate : levels)
            if (name == candidate.name) level = &candidate;
        if (!level) return fail("the bundle has no kernels for " + name);
        std::vector<char> code;
        if (!read(folder + "/" + level->file, code)) return false;
        if (!done(hipModuleLoadData(&module, code.data()), level->file)) return false;
        for (const char *kernel : kernels) {
            hipFunction_t function = nullptr;
            if (!done(hipModuleGetFunction(&function, module, kernel), kernel)) return false;
            functions.push_back(function);
        }
        return true;
    }

    /// Where a tensor lies behind the header of the weights file: `"name":{...,"data_offsets":[first,last]}`.
    static bool find(const std::string &header, const std::string &name, uint64_t &first, uint64_t &last) {
        size_t at = header.find("\"" + name + "\":{");
        if (at != std::string::npos) at = header.find("\"data_offsets\":[", at);
        unsigned long long from, to;
        if (at == std::string::npos || std::sscanf(header.c_str() + at, "\"data_offsets\":[%llu,%llu]", &from, &to) != 2) return false;
        first = from, last = to;
        return first <= last;
    }

    /// Copies the tensors to the card, one after the other.
    bool place(const std::string &folder) {
        std::string path = folder + "/weights.safetensors";
        std::FILE *file = std::fopen(path.c_str(), "rb");
        if (!file) return fail(path + " cannot be opened");
        bool placed = place(file, path);
        std::fclose(file);
        return placed;
    }

    bool place(std::FILE *file, const std::string &path) {
        unsigned char prefix[8];
        if (std::fread(prefix, 1, 8, file) != 8) return fail(path + " is too short");
        uint64_t length = 0;
        for (int byte = 7; byte >= 0; byte--) length = length << 8 | prefix[byte];
        if (length > (uint64_t{1} << 30)) return fail(path + " has no header");
        std::string header(length, ' ');
        if (std::fread(&header[0], 1, length, file) != length) return fail(path + " is too short");
        std::vector<char> bytes;
        for (const char *tensor : tensors) {
            uint64_t first = 0, last = 0;
            if (!find(header, tensor, first, last)) return fail(path + " lacks '" + tensor + "'");
            bytes.resize(last - first);
            if (std::fseek(file, static_cast<long>(8 + length + first), SEEK_SET) ||
                std::fread(bytes.data(), 1, bytes.size(), file) != bytes.size())
                return fail(path + " is too short");
            char *start = nullptr;
            if (!allocate(&start, bytes.size(), tensor) ||
                !done(hipMemcpyHtoD(start, bytes.data(), bytes.size()), tensor))
                return false;
            weights.push_back(start);
        }
        return true;
    }

    bool open(const char *folder, int32_t slots_, int32_t capacity_, int32_t max_tokens_) {
        if (slots_ < 1 || capacity_ < 1 || max_tokens_ < 1) return fail("slots, capacity and tokens are at least 1");
        slots = slots_, capacity = capacity_, max_tokens = max_tokens_;
        if (!done(hipInit(0), "HIP") || !load(folder) || !place(folder)) return false;
        if (!allocate(&arena, max_tokens * (bytes_per_token + bytes_per_logit_row), "activations")) return false;
        if (!allocate(&arrays, inputs * aligned(4 * max_tokens), "inputs")) return false;
        for (const Layer &layer : layers)
            for (uint64_t columns : {layer.key_dim, layer.value_dim}) {
                char *start = nullptr;
                if (!allocate(&start, 4 * slots * capacity * layer.kv_heads * columns, "the cache")) return false;
                caches.push_back(start);
            }
        return true;
    }

    /// The address of an argument, for a step's sizes.
    char *address(const Binding &binding, const uint64_t *dims) const {
        switch (binding.kind) {
        case Kind::weight: return weights[binding.value];
        case Kind::tokens: return arena + dims[0] * binding.value;
        case Kind::logits: return arena + dims[0] * bytes_per_token + dims[1] * binding.value;
        case Kind::cache: return caches[binding.value];
        default: return arrays + binding.value * aligned(4 * max_tokens);
        }
    }

    bool launch(const Step &step, const uint64_t *dims) {
        const Variant *variant = variants + step.first_variant;
        while (variant->max_rows >= 0 && static_cast<uint64_t>(variant->max_rows) < dims[step.rows]) variant++;
        uint64_t groups = 0;
        for (uint32_t at = 0; at < variant->terms; at++) {
            const Term &term = terms[variant->first_term + at];
            uint64_t product = term.factor;
            for (uint32_t by = 0; by < term.count; by++) product *= dims[term.dims[by]];
            groups += product;
        }
        if (groups > INT32_MAX) return fail(std::string(step.node) + ": too many tokens in one step");
        std::vector<uint64_t> numbers;
        for (uint32_t at = 0; at < step.bindings; at++)
            numbers.push_back(reinterpret_cast<uint64_t>(address(bindings[step.first_binding + at], dims)));
        numbers.insert(numbers.end(), dims, dims + 4);
        std::vector<void *> parameters;
        for (uint64_t &number : numbers) parameters.push_back(&number);
        hipError_t status = hipModuleLaunchKernel(functions[variant->kernel], static_cast<unsigned>(groups), 1, 1,
                                                  level->threads[variant->kernel], 1, 1, 0, nullptr, parameters.data(), nullptr);
        return done(status, step.node);
    }

    /// Launches the first `count` steps.
    bool run(int32_t tokens, const int32_t *const *given, int32_t rows, size_t count, uint64_t *dims) {
        if (tokens < 0 || rows < 0 || static_cast<uint64_t>(tokens) > max_tokens || static_cast<uint64_t>(rows) > max_tokens)
            return fail("more tokens than a step has room for");
        dims[0] = tokens, dims[1] = rows, dims[2] = slots, dims[3] = capacity;
        if (!done(hipSetDevice(0), "the card")) return false;
        for (size_t at = 0; at < inputs; at++) {
            size_t bytes = 4 * dims[at + 1 == inputs ? 1 : 0];
            if (!bytes) continue;
            char *to = arrays + at * aligned(4 * max_tokens);
            if (!done(hipMemcpyHtoD(to, const_cast<int32_t *>(given[at]), bytes), "the inputs")) return false;
        }
        for (size_t at = 0; at < count; at++)
            if (dims[steps[at].rows] && !launch(steps[at], dims)) return false;
        return true;
    }

    /// Where a value of the logit rows lies.
    char *of_rows(const uint64_t *dims, uint64_t offset) const { return arena + dims[0] * bytes_per_token + dims[1] * offset; }

    bool step(int32_t tokens, const int32_t *const *given, int32_t rows, float *logits) {
        uint64_t dims[4];
        // The last step chooses tokens.
        if (!run(tokens, given, rows, sizeof steps / sizeof *steps - 1, dims)) return false;
        const char *from = of_rows(dims, logits_offset);
        for (uint64_t row = 0; row < dims[1]; row++) {
            hipError_t status = hipMemcpyDtoH(logits + row * @PREFIX@Q35_VOCAB, const_cast<char *>(from + row * aligned(4 * @PREFIX@Q35_VOCAB)),
                                              4 * @PREFIX@Q35_VOCAB);
            if (!done(status, "the logits")) return false;
        }
        return true;
    }

    bool choose(int32_t tokens, const int32_t *const *given, int32_t rows, int32_t *chosen) {
        uint64_t dims[4];
        if (!run(tokens, given, rows, sizeof steps / sizeof *steps, dims)) return false;
        std::vector<int32_t> lines(dims[1] * (align / 4));
        if (rows && !done(hipMemcpyDtoH(lines.data(), of_rows(dims, chosen_offset), lines.size() * 4), "the tokens")) return false;
        for (uint64_t row = 0; row < dims[1]; row++) chosen[row] = lines[row * (align / 4)];
        return true;
    }

    ~@PREFIX@q35_model() {
        for (void *memory : allocated) (void)hipFree(memory);
        if (module) (void)hipModuleUnload(module);
    }
};

extern "C" int @PREFIX@q35_open(@PREFIX@q35_model **model, const char *folder, int32_t slots, int32_t capacity, int32_t max_tokens) {
    *model = new (std::nothrow) @PREFIX@q35_model;
    try {
        return *model && (*model)->open(folder, slots, capacity, max_tokens) ? 0 : 1;
    } catch (const std::bad_alloc &) {
        return (*model)->fail("there is no memory") ? 0 : 1;
    }
}

extern "C" int @PREFIX@q35_step(@PREFIX@q35_model *model, int32_t tokens, const int32_t *ids, const int32_t *positions,
                                const int32_t *slots, const int32_t *index, int32_t rows, const int32_t *logit_rows, float *logits) {
    const int32_t *const given[inputs] = {ids, positions, slots, index, logit_rows};
    try {
        return model->step(tokens, given, rows, logits) ? 0 : 1;
    } catch (const std::bad_alloc &) {
        return model->fail("there is no memory") ? 0 : 1;
    }
}

extern "C" int @PREFIX@q35_choose(@PREFIX@q35_model *model, int32_t tokens, const int32_t *ids, const int32_t *positions,
                                  const int32_t *slots, const int32_t *index, int32_t rows, const int32_t *logit_rows, int32_t *chosen) {
    const int32_t *const given[inputs] = {ids, positions, slots, index, logit_rows};
    try {
        return model->choose(tokens, given, rows, chosen) ? 0 : 1;
    } catch (const std::bad_alloc &) {
        return model->fail("there is no memory") ? 0 : 1;
    }
}

extern "C" const char *@PREFIX@q35_error(const @PREFIX@q35_model *model) { return model ? model->error.c_str() : "there is no memory"; }

extern "C" void @PREFIX@q35_close(@PREFIX@q35_model *model) { delete model; }
