// The kernels of a toy model. Widths: H = 4 columns in 64-byte rows, V = 10 logits in 64-byte rows, 2 heads of 2 columns.
// dims = { tokens, logit_rows, slots, capacity }.
#include <stdint.h>

#define ROW 16 // floats from one row of an activation to the next

// tokens, table[V][H] -> x
void toy_embed__base(void *const *args, const int64_t *dims, int64_t begin, int64_t end) {
    const int32_t *tokens = args[0];
    const float *table = args[1];
    float *x = args[2];
    (void)dims;
    for (int64_t m = begin; m < end; m++)
        for (int c = 0; c < 4; c++) x[m * ROW + c] = table[tokens[m] * 4 + c];
}

// x, positions, slots, index -> keys, values of the cache
void toy_append__base(void *const *args, const int64_t *dims, int64_t begin, int64_t end) {
    const float *x = args[0];
    const int32_t *positions = args[1], *slots = args[2], *index = args[3];
    float *keys = args[4], *values = args[5];
    for (int64_t m = begin; m < end; m++)
        for (int h = 0; h < 2; h++) {
            int64_t entry = ((int64_t)slots[m] * 2 + h) * dims[3] + index[m];
            for (int c = 0; c < 2; c++) {
                keys[entry * 2 + c] = (float)positions[m] + x[m * ROW + h * 2 + c];
                values[entry * 2 + c] = x[m * ROW + h * 2 + c];
            }
        }
}

// x, slots, index, keys, values -> y: the entries seen, weighted by key and by age
void toy_mix__base(void *const *args, const int64_t *dims, int64_t begin, int64_t end) {
    const float *x = args[0];
    const int32_t *slots = args[1], *index = args[2];
    const float *keys = args[3], *values = args[4];
    float *y = args[5];
    for (int64_t m = begin; m < end; m++)
        for (int h = 0; h < 2; h++)
            for (int c = 0; c < 2; c++) {
                float sum = x[m * ROW + h * 2 + c];
                for (int64_t j = 0; j <= index[m]; j++) {
                    int64_t entry = ((int64_t)slots[m] * 2 + h) * dims[3] + j;
                    sum += keys[entry * 2] * values[entry * 2 + c] / (float)(1 + index[m] - j);
                }
                y[m * ROW + h * 2 + c] = sum;
            }
}

// y, logit_rows, table -> logits; a tile is one token of the vocabulary
static void head(void *const *args, const int64_t *dims, int64_t begin, int64_t end) {
    const float *y = args[0];
    const int32_t *rows = args[1];
    const float *table = args[2];
    float *logits = args[3];
    for (int64_t r = 0; r < dims[1]; r++)
        for (int64_t v = begin; v < end; v++) {
            float sum = 0;
            for (int c = 0; c < 4; c++) sum += y[rows[r] * ROW + c] * table[v * 4 + c];
            logits[r * ROW + v] = sum;
        }
}

// Each is right only for the numbers of rows it is meant for.
void toy_head_few__base(void *const *args, const int64_t *dims, int64_t begin, int64_t end) {
    if (dims[1] <= 2) head(args, dims, begin, end);
}

void toy_head_many__base(void *const *args, const int64_t *dims, int64_t begin, int64_t end) {
    if (dims[1] > 2) head(args, dims, begin, end);
}
