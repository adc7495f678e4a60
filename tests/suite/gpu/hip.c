/* A stand-in for AMD's HIP runtime: memory is the host's, kernels do nothing, every call is written down.
 *
 *   STAND_IN_LOG   file that calls are appended to
 *   STAND_IN_FAIL  NAME=CODE: calls of NAME fail with CODE
 *   STAND_IN_ARCH  what the card's architecture is (gfx942:sramecc+:xnack-)
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* Memory that has been given and not taken back: what is copied must lie inside. */
static struct {
    char *start;
    size_t bytes;
} blocks[1 << 16];
static size_t count;

static int inside(const char *start, size_t bytes) {
    for (size_t at = 0; at < count; at++)
        if (blocks[at].start && start >= blocks[at].start && start + bytes <= blocks[at].start + blocks[at].bytes) return 1;
    call("WRONG", "%zu bytes outside of all memory", bytes);
    return 0;
}

int hipInit(unsigned flags) { return call("hipInit", "%u", flags); }

int hipSetDevice(int device) { return call("hipSetDevice", "%d", device); }

/* The layout of HIP 6: the name in front, the architecture at byte 1160; that of HIP 5 has it at byte 396. */
static int properties(const char *name, char *to, size_t at, size_t bytes) {
    const char *architecture = getenv("STAND_IN_ARCH");
    memset(to, 0, bytes);
    strcpy(to, "Stand-in");
    strcpy(to + at, architecture ? architecture : "gfx942:sramecc+:xnack-");
    return call(name, "");
}

int hipGetDevicePropertiesR0600(char *to, int device) {
    (void)device;
    return properties("hipGetDeviceProperties", to, 1160, 1472);
}

int hipGetDeviceProperties(char *to, int device) {
    (void)device;
    return properties("hipGetDeviceProperties", to, 396, 792);
}

int hipModuleLoadData(void **module, const char *code) {
    *module = (void *)1;
    return call("hipModuleLoadData", "%s", !memcmp(code, "\177ELF", 4) ? "ELF" : "nothing");
}

int hipModuleUnload(void *module) { return call("hipModuleUnload", "%p", module); }

int hipModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    *function = strdup(name);
    return call("hipModuleGetFunction", "%s", name);
}

int hipMalloc(void **start, size_t bytes) {
    int status = call("hipMalloc", "%zu", bytes);
    if (status) return status;
    *start = aligned_alloc(256, (bytes + 255) / 256 * 256);
    blocks[count].start = *start;
    blocks[count++].bytes = bytes;
    return 0;
}

int hipFree(void *start) {
    for (size_t at = 0; at < count; at++)
        if (start && blocks[at].start == start) {
            blocks[at].start = NULL;
            free(start);
            return call("hipFree", "");
        }
    return call("WRONG", "something is freed that was not allocated");
}

/* While launches are recorded, nothing else may be asked for: 900 is the number of that fault. */
static int capturing;

int hipStreamCreate(void **stream) {
    *stream = (void *)5;
    return call("hipStreamCreate", "");
}

int hipStreamDestroy(void *stream) { return call("hipStreamDestroy", "%p", stream); }

int hipStreamBeginCapture(void *stream, int mode) {
    int status = call("hipStreamBeginCapture", "%p %d", stream, mode);
    if (!status) capturing = 1;
    return status;
}

int hipStreamEndCapture(void *stream, void **graph) {
    capturing = 0;
    *graph = (void *)6;
    return call("hipStreamEndCapture", "%p", stream);
}

int hipGraphInstantiate(void **made, void *graph, void **node, char *messages, size_t bytes) {
    (void)node;
    (void)messages;
    *made = (void *)7;
    return call("hipGraphInstantiate", "%p %zu", graph, bytes);
}

int hipGraphDestroy(void *graph) { return call("hipGraphDestroy", "%p", graph); }

int hipGraphExecDestroy(void *made) { return call("hipGraphExecDestroy", "%p", made); }

int hipGraphLaunch(void *made, void *stream) { return call("hipGraphLaunch", "%p %p", made, stream); }

int hipMemset(void *start, int value, size_t bytes) {
    if (inside(start, bytes)) memset(start, value, bytes);
    return call("hipMemset", "%zu", bytes);
}

int hipMemcpyHtoD(char *to, const void *from, size_t bytes) {
    if (inside(to, bytes)) memcpy(to, from, bytes);
    if (capturing) return 900;
    return call("hipMemcpyHtoD", "%zu", bytes);
}

int hipMemcpyDtoH(void *to, const char *from, size_t bytes) {
    if (inside(from, bytes)) memcpy(to, from, bytes);
    if (capturing) return 900;
    return call("hipMemcpyDtoH", "%zu", bytes);
}

int hipMemGetInfo(size_t *free, size_t *total) {
    *free = 1000;
    *total = 2000;
    return call("hipMemGetInfo", "");
}

/* The first argument of every kernel is an address. */
int hipModuleLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void *stream, void **parameters, void **extra) {
    (void)extra;
    if (capturing && stream != (void *)5) return 900;
    if (parameters) inside(*(char **)parameters[0], 1);
    return call(capturing ? "RECORDED" : "hipModuleLaunchKernel", "%s %u*%u*%u %u*%u*%u %u %s", (const char *)function, gx, gy, gz, bx, by, bz, shared,
                parameters ? "with parameters" : "without");
}

const char *hipGetErrorName(int code) {
    switch (code) {
    case 2: return "hipErrorOutOfMemory";
    case 100: return "hipErrorNoDevice";
    case 209: return "hipErrorNoBinaryForGpu";
    case 700: return "hipErrorIllegalAddress";
    default: return "hipErrorUnknown";
    }
}

const char *hipGetErrorString(int code) {
    (void)code;
    return "it failed as it was asked to";
}
