/* Prints the logits after each token of a sequence: logits WEIGHTS TOKEN... */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

int main(int argc, char **argv) {
    FILE *file = fopen(argv[1], "rb");
    void *weights = aligned_alloc(TINY_ALIGN, (TINY_WEIGHTS_SIZE + 63) / 64 * 64);
    if (file == NULL || fread(weights, 1, TINY_WEIGHTS_SIZE, file) != TINY_WEIGHTS_SIZE) return 2;
    tiny_config config = {1, 32, 3, 1};
    int64_t bytes = tiny_context_size(&config);
    tiny_context *context;
    void *memory = aligned_alloc(TINY_ALIGN, (size_t)bytes);
    int32_t status = tiny_open(&config, memory, bytes, weights, TINY_WEIGHTS_SIZE, &context);
    static float logits[TINY_VOCAB];
    int32_t tokens[64];
    for (int at = 2; at < argc; at++) tokens[at - 2] = atoi(argv[at]);
    /* Four at once, which are more than the three of a run; then one at a time. */
    for (int at = 0; status == TINY_OK && at < argc - 2;) {
        int count = at == 0 && argc - 2 >= 4 ? 4 : 1;
        status = tiny_step(context, 0, tokens + at, count, logits);
        at += count;
        for (int token = 0; token < TINY_VOCAB; token++) printf("%.9g ", (double)logits[token]);
        printf("\n");
    }
    if (status != TINY_OK) printf("%s\n", tiny_status_text(status));
    fclose(file);
    free(memory);
    free(weights);
    return status != TINY_OK;
}
