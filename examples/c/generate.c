/* Continues a prompt with a model that is linked as an object: tokens in, tokens out, and nothing beside the C library.
 *
 *   q35c compile examples/tiny-llama -o tiny.q35
 *   cc examples/c/generate.c tiny.q35/cpu/model.o -Itiny.q35/cpu -lm -lpthread -o generate
 *   ./generate tiny.q35/weights.safetensors 16 2707 291 271
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"

/* Ends the program if a call did not succeed. */
static void check(const char *what, int32_t status) {
    if (status == Q35_OK) return;
    fprintf(stderr, "%s: %s\n", what, q35_status_text(status));
    exit(1);
}

/* Maps a file for reading: the kernels read the weights where the system has them. */
static const void *map(const char *path, int64_t *bytes) {
    struct stat about;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &about) != 0) {
        perror(path);
        exit(1);
    }
    void *memory = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (memory == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    *bytes = about.st_size;
    return memory;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: %s WEIGHTS COUNT TOKEN...\n", argv[0]);
        return 2;
    }
    int64_t weights_bytes;
    const void *weights = map(argv[1], &weights_bytes);

    q35_config config = {.slots = 1, .capacity = 256, .max_tokens = 32, .max_rows = 1};
    int64_t bytes = q35_context_size(&config);
    void *memory = aligned_alloc(Q35_ALIGN, (size_t)bytes);
    q35_context *context;
    check("open", q35_open(&config, memory, bytes, weights, weights_bytes, &context));

    int32_t prompt[256], length = 0;
    for (int at = 3; at < argc && length < 256; at++) prompt[length++] = (int32_t)strtol(argv[at], NULL, 10);

    static float logits[Q35_VOCAB];
    check("prompt", q35_step(context, 0, prompt, length, logits));
    int count = atoi(argv[2]);
    for (int made = 1;; made++) {
        int32_t best = 0;
        for (int32_t token = 1; token < Q35_VOCAB; token++)
            if (logits[token] > logits[best]) best = token;
        printf("%d%s", best, made < count ? "," : "\n");
        if (made >= count) break;
        check("step", q35_step(context, 0, &best, 1, logits));
    }
    free(memory);
    return 0;
}
