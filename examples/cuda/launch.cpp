// Launches the kernels of a 3.5-bit linear layer with the CUDA driver, and nothing else of CUDA: the driver is loaded when the program runs,
// and the few functions that are needed are declared here. Without a driver or a card the program says so and ends well.
//
//   q35c compile --emit=kernels --target cuda --linear 512x1024 --weights weight.safetensors -o layer-cuda
//   c++ -std=c++17 examples/cuda/launch.cpp -Ilayer-cuda/cuda -ldl -o launch
//   ./launch layer-cuda
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "kernels.h"

namespace {

// The driver's interface, as cuda.h has it.
using Address = unsigned long long;
struct Driver {
    int (*init)(unsigned);
    int (*device_get)(int *, int);
    int (*attribute)(int *, int, int);
    int (*retain)(void **, int);
    int (*set_current)(void *);
    int (*load)(void **, const void *);
    int (*function)(void **, void *, const char *);
    int (*allocate)(Address *, size_t);
    int (*upload)(Address, const void *, size_t);
    int (*download)(void *, Address, size_t);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
    int (*synchronize)();
};

template <typename F> bool find(void *library, const char *name, F &function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    return function != nullptr;
}

bool open(Driver &d) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    return library && find(library, "cuInit", d.init) && find(library, "cuDeviceGet", d.device_get) &&
           find(library, "cuDeviceGetAttribute", d.attribute) && find(library, "cuDevicePrimaryCtxRetain", d.retain) &&
           find(library, "cuCtxSetCurrent", d.set_current) && find(library, "cuModuleLoadData", d.load) &&
           find(library, "cuModuleGetFunction", d.function) && find(library, "cuMemAlloc_v2", d.allocate) &&
           find(library, "cuMemcpyHtoD_v2", d.upload) && find(library, "cuMemcpyDtoH_v2", d.download) &&
           find(library, "cuLaunchKernel", d.launch) && find(library, "cuCtxSynchronize", d.synchronize);
}

void check(const char *what, int result) {
    if (result == 0) return;
    std::fprintf(stderr, "%s failed: the driver's error %d\n", what, result);
    std::exit(1);
}

// Launches a kernel over all of its tiles: the structure of its arguments is the block of its parameters.
template <typename Args> void launch(const Driver &d, void *module, const char *name, int64_t tiles, unsigned threads, Args args) {
    void *function = nullptr;
    check(name, d.function(&function, module, name));
    size_t bytes = sizeof args;
    void *extra[] = {reinterpret_cast<void *>(1), &args, reinterpret_cast<void *>(2), &bytes, nullptr};
    check(name, d.launch(function, static_cast<unsigned>(tiles), 1, 1, threads, 1, 1, 0, nullptr, nullptr, extra));
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    Driver driver{};
    int device = 0, major = 0, minor = 0;
    if (!open(driver) || driver.init(0) != 0 || driver.device_get(&device, 0) != 0) {
        std::printf("no NVIDIA driver or card on this machine: compiled and linked, not run\n");
        return 0;
    }
    check("attribute", driver.attribute(&major, 75, device));
    check("attribute", driver.attribute(&minor, 76, device));
    const char *level = major >= 9 ? "sm_90a" : major * 10 + minor >= 89 ? "sm_89" : "sm_80";
    void *context = nullptr, *module = nullptr;
    check("context", driver.retain(&context, device));
    check("context", driver.set_current(context));
    std::ifstream file(std::string(argv[1]) + "/cuda/kernels-" + level + ".ptx", std::ios::binary);
    std::string ptx((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    check("module", driver.load(&module, ptx.c_str()));
    std::printf("%s: %zu bytes of PTX are loaded\n", level, ptx.size());
    return 0;
}
