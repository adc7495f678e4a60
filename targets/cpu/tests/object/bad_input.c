/* Every way to call a linked model wrongly has its status, changes nothing and touches no memory that it must not: run it under valgrind. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "other/model.h"
#include "model.h"

static int failures;

#define CHECK(expected, call)                                                                 \
    do {                                                                                      \
        long long got = (call), wanted = (expected);                                          \
        if (got != wanted) {                                                                  \
            printf("line %d: %s is %lld, not %lld\n", __LINE__, #call, got, wanted);          \
            failures++;                                                                       \
        }                                                                                     \
    } while (0)

static void *read_file(const char *path, int64_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) exit(2);
    fseek(file, 0, SEEK_END);
    *bytes = ftell(file);
    rewind(file);
    void *memory = aligned_alloc(64, (size_t)(*bytes + 63) / 64 * 64);
    if (fread(memory, 1, (size_t)*bytes, file) != (size_t)*bytes) exit(2);
    fclose(file);
    return memory;
}

/* A sharer that calls back into its own context, as another thread would while a step runs. */
static tiny_context *shared;
static int32_t seen_inside = 1;

static void *intrude(void *unused) {
    (void)unused;
    int32_t token = 1;
    int32_t status = tiny_step(shared, 0, &token, 1, NULL);
    if (seen_inside == 1 || status != TINY_BUSY) seen_inside = status;
    return NULL;
}

static void intruding_share(void *user, tiny_task *task, void *data, int64_t tiles) {
    int *calls = user;
    if ((*calls)++ == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, intrude, NULL);
        pthread_join(thread, NULL);
    }
    for (int64_t at = tiles; at > 0; at--) task(data, at - 1, at);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int64_t weights_bytes, other_bytes;
    char *weights = read_file(argv[1], &weights_bytes), *other_weights = read_file(argv[2], &other_bytes);

    /* Facts. */
    CHECK(weights_bytes, tiny_weights_size());
    CHECK(TINY_WEIGHTS_SIZE, weights_bytes);
    CHECK(TINY_VOCAB, tiny_vocab());
    CHECK(TINY_LONGEST_CONTEXT, tiny_longest_context());
    CHECK(0, strcmp(tiny_status_text(TINY_OK), "done"));
    CHECK(0, strcmp(tiny_status_text(-99), ""));
    CHECK(0, strcmp(tiny_status_text(7), ""));
    CHECK(1, strlen(tiny_level_name(tiny_best_level())) > 0);
    CHECK(0, strlen(tiny_level_name(99)));

    /* Configurations. */
    tiny_config good = {.slots = 2, .capacity = 24, .max_tokens = 5, .max_rows = 3};
    int64_t bytes = tiny_context_size(&good);
    CHECK(0, bytes % 64);
    CHECK(0, tiny_context_size(NULL));
    tiny_config bad[] = {
        {0, 24, 5, 3},  {-1, 24, 5, 3}, {2, 0, 5, 3}, {2, TINY_LONGEST_CONTEXT + 1, 5, 3}, {2, 24, 0, 3},       {2, 24, 5, 0},
        {2, 24, 5, 6},  {1 << 17, 24, 5, 3}, {2, 24, 1 << 21, 3}, {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}, {INT32_MIN, 1, 1, 1},
    };
    char *memory = aligned_alloc(64, (size_t)bytes + 64);
    tiny_context *context;
    for (size_t at = 0; at < sizeof bad / sizeof *bad; at++) {
        CHECK(0, tiny_context_size(&bad[at]));
        CHECK(TINY_BAD_CONFIG, tiny_open(&bad[at], memory, bytes, weights, weights_bytes, &context));
    }

    /* Opening. */
    CHECK(TINY_NULL_ARGUMENT, tiny_open(NULL, memory, bytes, weights, weights_bytes, &context));
    CHECK(TINY_NULL_ARGUMENT, tiny_open(&good, NULL, bytes, weights, weights_bytes, &context));
    CHECK(TINY_NULL_ARGUMENT, tiny_open(&good, memory, bytes, NULL, weights_bytes, &context));
    CHECK(TINY_NULL_ARGUMENT, tiny_open(&good, memory, bytes, weights, weights_bytes, NULL));
    CHECK(TINY_TOO_SMALL, tiny_open(&good, memory, bytes - 1, weights, weights_bytes, &context));
    CHECK(TINY_TOO_SMALL, tiny_open(&good, memory, 0, weights, weights_bytes, &context));
    CHECK(TINY_MISALIGNED, tiny_open(&good, memory + 8, bytes, weights, weights_bytes, &context));
    CHECK(TINY_MISALIGNED, tiny_open(&good, memory, bytes, weights + 8, weights_bytes, &context));
    CHECK(TINY_OTHER_WEIGHTS, tiny_open(&good, memory, bytes, weights, weights_bytes - 1, &context));
    CHECK(TINY_OTHER_WEIGHTS, tiny_open(&good, memory, bytes, other_weights, other_bytes, &context));
    weights[40] ^= 1;
    CHECK(TINY_OTHER_WEIGHTS, tiny_open(&good, memory, bytes, weights, weights_bytes, &context));
    weights[40] ^= 1;
    CHECK(1, context == NULL);
    memset(memory, 0xa5, (size_t)bytes);
    CHECK(TINY_OK, tiny_open(&good, memory, bytes, weights, weights_bytes, &context));
    CHECK(tiny_best_level(), tiny_level(context));

    /* Things that are no context of this model. */
    int32_t token = 3;
    char *nothing = calloc(1, 4096);
    CHECK(TINY_NULL_ARGUMENT, tiny_step(NULL, 0, &token, 1, NULL));
    CHECK(TINY_NOT_A_CONTEXT, tiny_step((tiny_context *)nothing, 0, &token, 1, NULL));
    CHECK(TINY_NOT_A_CONTEXT, tiny_step((tiny_context *)(memory + 4), 0, &token, 1, NULL));
    CHECK(TINY_NOT_A_CONTEXT, tiny_length((tiny_context *)nothing, 0));
    CHECK(TINY_NOT_A_CONTEXT, tiny_reset((tiny_context *)nothing));
    other_config other_good = {1, 8, 2, 1};
    int64_t other_size = other_context_size(&other_good);
    other_context *other;
    void *other_memory = aligned_alloc(64, (size_t)other_size);
    CHECK(OTHER_OK, other_open(&other_good, other_memory, other_size, other_weights, other_bytes, &other));
    CHECK(TINY_NOT_A_CONTEXT, tiny_step((tiny_context *)other, 0, &token, 1, NULL));
    CHECK(OTHER_OK, other_step(other, 0, &token, 1, NULL));

    /* Steps: nothing changes when they are refused. */
    static float logits[4 * TINY_VOCAB], again[4 * TINY_VOCAB];
    int32_t prompt[] = {1, 2, 3, 4, 5, 6, 7}, wrong[] = {1, 2, TINY_VOCAB}, negative[] = {1, -1};
    CHECK(TINY_OK, tiny_step(context, 0, prompt, 7, logits)); /* more than max_tokens at once */
    CHECK(7, tiny_length(context, 0));
    CHECK(TINY_NULL_ARGUMENT, tiny_step(context, 0, NULL, 1, logits));
    CHECK(TINY_BAD_COUNT, tiny_step(context, 0, prompt, 0, logits));
    CHECK(TINY_BAD_COUNT, tiny_step(context, 0, prompt, -3, logits));
    CHECK(TINY_BAD_SLOT, tiny_step(context, 2, prompt, 1, logits));
    CHECK(TINY_BAD_SLOT, tiny_step(context, -1, prompt, 1, logits));
    CHECK(TINY_BAD_TOKEN, tiny_step(context, 0, wrong, 3, logits));
    CHECK(TINY_BAD_TOKEN, tiny_step(context, 0, negative, 2, logits));
    int32_t *many = calloc(TINY_LONGEST_CONTEXT, sizeof *many);
    CHECK(TINY_FULL, tiny_step(context, 0, many, 18, logits));
    CHECK(TINY_FULL, tiny_step(context, 0, many, TINY_LONGEST_CONTEXT, logits));
    CHECK(7, tiny_length(context, 0));
    CHECK(TINY_OK, tiny_step(context, 0, many, 17, NULL));
    CHECK(24, tiny_length(context, 0));
    CHECK(TINY_FULL, tiny_step(context, 0, many, 1, NULL));
    CHECK(TINY_OK, tiny_truncate(context, 0, 7));

    /* Batches. */
    int32_t slots[] = {1, 1, 0}, rows[] = {1, 2}, bad_rows[] = {0, 3}, bad_slots[] = {0, 2, 0};
    CHECK(TINY_NULL_ARGUMENT, tiny_step_batch(context, prompt, NULL, 3, rows, 2, logits));
    CHECK(TINY_NULL_ARGUMENT, tiny_step_batch(context, prompt, slots, 3, NULL, 2, logits));
    CHECK(TINY_NULL_ARGUMENT, tiny_step_batch(context, prompt, slots, 3, rows, 2, NULL));
    CHECK(TINY_BAD_COUNT, tiny_step_batch(context, prompt, slots, 0, rows, 0, logits));
    CHECK(TINY_BAD_COUNT, tiny_step_batch(context, prompt, slots, 6, rows, 2, logits));
    CHECK(TINY_BAD_COUNT, tiny_step_batch(context, prompt, slots, 3, rows, 4, logits));
    CHECK(TINY_BAD_COUNT, tiny_step_batch(context, prompt, slots, 3, rows, -1, logits));
    CHECK(TINY_BAD_ROW, tiny_step_batch(context, prompt, slots, 3, bad_rows, 2, logits));
    CHECK(TINY_BAD_SLOT, tiny_step_batch(context, prompt, bad_slots, 3, rows, 2, logits));
    CHECK(TINY_BAD_TOKEN, tiny_step_batch(context, wrong, slots, 3, rows, 2, logits));
    CHECK(TINY_OK, tiny_step(context, 1, many, 23, NULL));
    CHECK(TINY_FULL, tiny_step_batch(context, prompt, slots, 3, rows, 2, logits));
    CHECK(7, tiny_length(context, 0));
    CHECK(23, tiny_length(context, 1));
    CHECK(TINY_OK, tiny_truncate(context, 1, 0));
    CHECK(TINY_OK, tiny_step_batch(context, prompt, slots, 3, rows, 2, logits));
    CHECK(8, tiny_length(context, 0));
    CHECK(2, tiny_length(context, 1));
    /* The same one after the other. */
    CHECK(TINY_OK, tiny_truncate(context, 0, 7));
    CHECK(TINY_OK, tiny_truncate(context, 1, 0));
    CHECK(TINY_OK, tiny_step(context, 1, prompt, 2, again));
    CHECK(TINY_OK, tiny_step(context, 0, prompt + 2, 1, again + TINY_VOCAB));
    CHECK(0, memcmp(logits, again, 2 * TINY_VOCAB * sizeof *logits));
    CHECK(TINY_OK, tiny_step_batch(context, prompt, slots, 3, NULL, 0, NULL));

    /* Lengths. */
    CHECK(TINY_BAD_SLOT, tiny_length(context, 9));
    CHECK(TINY_BAD_SLOT, tiny_truncate(context, 2, 0));
    CHECK(TINY_BAD_COUNT, tiny_truncate(context, 0, -1));
    CHECK(TINY_OK, tiny_truncate(context, 0, 1000));

    /* States: what is restored goes on as if nothing had happened. */
    CHECK(TINY_OK, tiny_reset(context));
    CHECK(0, tiny_length(context, 0));
    CHECK(TINY_OK, tiny_step(context, 0, prompt, 6, NULL));
    int64_t size = tiny_state_size(6);
    char *state = malloc((size_t)size);
    CHECK(0, tiny_state_size(-1));
    CHECK(0, tiny_state_size(TINY_LONGEST_CONTEXT + 1));
    CHECK(TINY_NULL_ARGUMENT, tiny_save(context, 0, NULL, size));
    CHECK(TINY_TOO_SMALL, tiny_save(context, 0, state, size - 1));
    CHECK(TINY_TOO_SMALL, tiny_save(context, 0, state, 0));
    CHECK(TINY_BAD_SLOT, tiny_save(context, 5, state, size));
    CHECK(TINY_OK, tiny_save(context, 0, state, size));
    CHECK(TINY_OK, tiny_step(context, 0, prompt + 6, 1, logits));
    CHECK(TINY_OK, tiny_step(context, 1, many, 20, NULL));
    CHECK(TINY_NULL_ARGUMENT, tiny_restore(context, 1, NULL, size));
    CHECK(TINY_BAD_SLOT, tiny_restore(context, 2, state, size));
    CHECK(TINY_BAD_STATE, tiny_restore(context, 1, state, size - 1));
    CHECK(TINY_BAD_STATE, tiny_restore(context, 1, state, 15));
    CHECK(TINY_BAD_STATE, tiny_restore(context, 1, nothing, 4096));
    CHECK(OTHER_BAD_STATE, other_restore(other, 0, state, size));
    state[14] ^= 0x40; /* an absurd length */
    CHECK(TINY_BAD_STATE, tiny_restore(context, 1, state, size));
    state[14] ^= 0x40;
    CHECK(20, tiny_length(context, 1));
    CHECK(TINY_OK, tiny_restore(context, 1, state, size));
    CHECK(6, tiny_length(context, 1));
    CHECK(TINY_OK, tiny_step(context, 1, prompt + 6, 1, again));
    CHECK(0, memcmp(logits, again, TINY_VOCAB * sizeof *logits));

    /* Two threads on one context; and a sharer changes nothing. */
    shared = context;
    int calls = 0;
    CHECK(TINY_NULL_ARGUMENT, tiny_share(NULL, intruding_share, &calls));
    CHECK(TINY_OK, tiny_share(context, intruding_share, &calls));
    CHECK(TINY_OK, tiny_truncate(context, 1, 6));
    CHECK(TINY_OK, tiny_step(context, 1, prompt + 6, 1, again));
    CHECK(TINY_BUSY, seen_inside);
    CHECK(1, calls > 1);
    CHECK(0, memcmp(logits, again, TINY_VOCAB * sizeof *logits));
    CHECK(TINY_OK, tiny_share(context, NULL, NULL));

    void *all[] = {weights, other_weights, memory, other_memory, nothing, many, state};
    for (size_t at = 0; at < sizeof all / sizeof *all; at++) free(all[at]);
    printf("%d failures\n", failures);
    return failures != 0;
}
