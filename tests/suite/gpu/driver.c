/* A stand-in for the CUDA driver: memory is the host's, kernels do nothing, every call is written down.
 *
 *   STAND_IN_LOG         file that calls are appended to
 *   STAND_IN_FAIL        NAME=CODE: calls of NAME fail with CODE
 *   STAND_IN_CAPABILITY  compute capability, major * 10 + minor (90)
 *   STAND_IN_DRIVER      CUDA version of the driver (12040)
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

static int call(const char *name, const char *format, ...) {
    const char *log = getenv("STAND_IN_LOG");
    FILE *file = log ? fopen(log, "a") : NULL;
    if (file) {
        va_list args;
        va_start(args, format);
        fprintf(file, "%s ", name);
        vfprintf(file, format, args);
        fputc('\n', file);
        va_end(args);
        fclose(file);
    }
    const char *fail = getenv("STAND_IN_FAIL");
    size_t length = strlen(name);
    return fail && !strncmp(fail, name, length) && fail[length] == '=' ? atoi(fail + length + 1) : 0;
}

int cuInit(unsigned flags) { return call("cuInit", "%u", flags); }

int cuDriverGetVersion(int *version) {
    *version = number("STAND_IN_DRIVER", 12040);
    return call("cuDriverGetVersion", "");
}

int cuDeviceGet(int *device, int ordinal) {
    *device = 7;
    return call("cuDeviceGet", "%d", ordinal);
}

int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "Stand-in");
    return call("cuDeviceGetName", "%d", device);
}

/* 75 and 76 are the numbers of the major and the minor part of the compute capability. */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = number("STAND_IN_CAPABILITY", 90);
    *value = attribute == 75 ? capability / 10 : capability % 10;
    return call("cuDeviceGetAttribute", "%d %d", attribute, device);
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = (void *)1;
    return call("cuDevicePrimaryCtxRetain", "%d", device);
}

int cuDevicePrimaryCtxRelease_v2(int device) { return call("cuDevicePrimaryCtxRelease", "%d", device); }
int cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }

int cuCtxSetCurrent(void *context) {
    (void)context;
    return 0;
}

int cuModuleLoadData(void **module, const char *text) {
    *module = (void *)text;
    const char *target = strstr(text, ".target ");
    return call("cuModuleLoadData", "%.14s", target ? target + 8 : "nothing");
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    *function = strdup(name);
    return call("cuModuleGetFunction", "%s", name);
}

/* While launches are recorded, nothing else may be asked for: 900 is the number of that fault. */
static int capturing;

int cuStreamCreate(void **stream, unsigned flags) {
    *stream = (void *)5;
    return call("cuStreamCreate", "%u", flags);
}

int cuStreamBeginCapture_v2(void *stream, int mode) {
    int status = call("cuStreamBeginCapture", "%p %d", stream, mode);
    if (!status) capturing = 1;
    return status;
}

int cuStreamEndCapture(void *stream, void **graph) {
    capturing = 0;
    *graph = (void *)6;
    return call("cuStreamEndCapture", "%p", stream);
}

int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    *made = (void *)7;
    return call("cuGraphInstantiate", "%p %llu", graph, flags);
}

int cuGraphDestroy(void *graph) { return call("cuGraphDestroy", "%p", graph); }

int cuGraphLaunch(void *made, void *stream) { return call("cuGraphLaunch", "%p %p", made, stream); }

int cuMemAlloc_v2(uint64_t *start, size_t bytes) {
    *start = (uint64_t)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return call("cuMemAlloc", "%zu", bytes);
}

int cuMemsetD8_v2(uint64_t start, unsigned char value, size_t bytes) {
    memset((void *)(uintptr_t)start, value, bytes);
    return call("cuMemsetD8", "%zu", bytes);
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
    memcpy((void *)(uintptr_t)to, from, bytes);
    if (capturing) return 900;
    return call("cuMemcpyHtoD", "%zu", bytes);
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    if (capturing) return 900;
    return call("cuMemcpyDtoH", "%zu", bytes);
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = 1000;
    *total = 2000;
    return call("cuMemGetInfo", "");
}

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **parameters, void **extra) {
    (void)extra;
    if (capturing && stream != (void *)5) return 900;
    return call(capturing ? "RECORDED" : "cuLaunchKernel", "%s %u*%u*%u %u*%u*%u %u %s", (const char *)function, gx, gy, gz, bx, by, bz, shared,
                parameters ? "with parameters" : "without");
}

int cuGetErrorName(int code, const char **name) {
    switch (code) {
    case 2: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return 0;
    case 100: *name = "CUDA_ERROR_NO_DEVICE"; return 0;
    case 222: *name = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"; return 0;
    case 700: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return 0;
    default: return 1;
    }
}

int cuGetErrorString(int code, const char **text) {
    *text = "it failed as it was asked to";
    return code == 0;
}
