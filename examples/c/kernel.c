/* Calls one kernel, a 3.5-bit linear layer, and checks it against the number format decoded by hand.
 *
 *   python3 examples/python/weight.py 512 1024 weight.safetensors
 *   q35c compile --emit=kernels --linear 512x1024 --codec split --rotate off --weights weight.safetensors -o layer
 *   cc examples/c/kernel.c layer/linear.o -Ilayer -lm -lpthread -o kernel
 *   ./kernel layer/weights.safetensors
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "linear.h"

enum { ROWS = 3 };

static unsigned char *read_file(const char *path, int64_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    *bytes = ftell(file);
    rewind(file);
    unsigned char *memory = aligned_alloc(Q35_ALIGN, (size_t)(*bytes + Q35_ALIGN - 1) / Q35_ALIGN * Q35_ALIGN);
    if (memory == NULL || fread(memory, 1, (size_t)*bytes, file) != (size_t)*bytes) exit(1);
    fclose(file);
    return memory;
}

/* An IEEE half as a float; scales are never subnormal here. */
static float half_to_float(const unsigned char *at) {
    int bits = at[0] | at[1] << 8, exponent = bits >> 10 & 31;
    return ldexpf((float)(1024 + (bits & 1023)), exponent - 25);
}

/* Weight [row][col] as docs/src/format.md describes it: 7 bits, a container, hold two neighbours, 4 bits for the even one and 3 for the odd one.
 * Sixteen rows make a tile, 64 columns a block; a tile's block is 7 vectors of 64 bytes, 4 of them per row. Containers 8 b to 8 b + 6 of a row's
 * block are in the low bits of its byte b of vectors 0 to 6; container 8 b + 7 is in the high bits of these bytes, one bit each. Scales come
 * sixteen rows at a time, and with a scale per row that is one after the other. */
static float weight(const unsigned char *weights, int row, int col) {
    size_t blocks = (Q35_INPUTS + 63) / 64, container = (size_t)col / 2, in_block = container % 32, vector = in_block % 8;
    const unsigned char *bytes = weights + Q35_WEIGHT_AT + ((size_t)row / 16 * blocks + container / 32) * 448 + (size_t)row % 16 * 4 + in_block / 8;
    int code = vector < 7 ? bytes[64 * vector] & 127 : 0;
    for (int bit = 0; vector == 7 && bit < 7; bit++) code |= bytes[64 * bit] >> 7 << bit;
    int n1 = (code >> 3 ^ 8) - 8, n2 = ((code & 7) ^ 4) - 4;
    float scale = half_to_float(weights + Q35_WEIGHT_SCALES_AT + 2 * (size_t)row);
    return scale * (float)(col % 2 == 0 ? 2 * n1 + 1 : 4 * n2 + 2);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s WEIGHTS\n", argv[0]);
        return 2;
    }
    int64_t weights_bytes, bytes = q35_workspace_size(ROWS);
    unsigned char *weights = read_file(argv[1], &weights_bytes);
    float *x = aligned_alloc(Q35_ALIGN, sizeof(float) * ROWS * Q35_X_STRIDE);
    float *y = aligned_alloc(Q35_ALIGN, sizeof(float) * ROWS * Q35_Y_STRIDE);
    for (int at = 0; at < ROWS * Q35_X_STRIDE; at++) x[at] = sinf((float)(at * at % 1009));

    void *workspace = aligned_alloc(Q35_ALIGN, (size_t)bytes);
    int32_t level = q35_best_level();
    int32_t status = q35_linear(level, weights, weights_bytes, x, ROWS, y, workspace, bytes, NULL, NULL);
    if (status != Q35_OK) {
        fprintf(stderr, "%s\n", q35_status_text(status));
        return 1;
    }

    /* The kernel rounds x to 8 bits with a scale per row; so does the check, in double precision. */
    double error = 0, size = 0;
    for (int row = 0; row < ROWS; row++) {
        const float *of = x + row * Q35_X_STRIDE;
        double largest = 0;
        for (int k = 0; k < Q35_INPUTS; k++) largest = fmax(largest, fabs((double)of[k]));
        for (int n = 0; n < Q35_OUTPUTS; n++) {
            double sum = 0;
            for (int k = 0; k < Q35_INPUTS; k++) sum += rint((double)of[k] * 127 / largest) * weight(weights, n, k);
            double expected = sum * largest / 127, got = y[row * Q35_Y_STRIDE + n];
            error += (got - expected) * (got - expected);
            size += expected * expected;
        }
    }
    double relative = sqrt(error / size);
    printf("%d x %d weights of 3.5 bits times %d rows: %s\n", Q35_OUTPUTS, Q35_INPUTS, ROWS,
           relative < 1e-3 ? "as the format says" : "WRONG");
    free(workspace);
    free(y);
    free(x);
    free(weights);
    return relative < 1e-3 ? 0 : 1;
}
