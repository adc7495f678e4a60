/* Every way to call libq35rt wrongly has its number, changes nothing and touches no memory that it must not: to be run under watch.
 *
 *   runtime FOLDER, which holds the bundles and tokenizers that tests/suite/link/mod.rs puts there
 */
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "q35rt.h"

static int failures;

#define CHECK(expected, call)                                                                 \
    do {                                                                                      \
        long long got = (call), wanted = (expected);                                          \
        if (got != wanted) {                                                                  \
            printf("line %d: %s is %lld, not %lld\n", __LINE__, #call, got, wanted);          \
            failures++;                                                                       \
        }                                                                                     \
    } while (0)

enum { OK = Q35RT_STATUS_OK, NULL_ARGUMENT = Q35RT_STATUS_NULL_ARGUMENT, BUSY = Q35RT_STATUS_BUSY, BAD_SLOT = Q35RT_STATUS_BAD_SLOT };
enum { BAD_NUMBER = Q35RT_STATUS_BAD_NUMBER, BAD_TEXT = Q35RT_STATUS_BAD_TEXT };
/* Numbers of diagnostics. */
enum { CANNOT_READ = 101, NOT_A_BUNDLE = 501, OTHER_SCHEMA = 502, DAMAGED = 503, LACKS_FEATURE = 504 };
enum { BAD_TOKEN = 601, CONTEXT_FULL = 602, NO_TOKENIZER = 603, BAD_PROMPT = 605 };

/* What the tests' model and tokenizer have. */
enum { VOCAB = 320, CAPACITY = 24 };

static const char *folder;

static const char *in_folder(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* The number of a call that fails with an error, whose text has these words in it. */
static int32_t told(int32_t number, q35rt_error **error, const char *words) {
    const char *text = q35rt_error_text(*error);
    if (text == NULL || strstr(text, words) == NULL) {
        printf("'%s' is not in: %s\n", words, text == NULL ? "(no text)" : text);
        failures++;
    }
    q35rt_error_free(*error);
    *error = NULL;
    return number;
}

static void opening(void) {
    q35rt_model *model = (q35rt_model *)&failures;
    q35rt_error *error = (q35rt_error *)&failures;
    CHECK(NULL_ARGUMENT, q35rt_open(NULL, NULL, &model, &error));
    CHECK(1, model == NULL && error == NULL);
    CHECK(NULL_ARGUMENT, q35rt_open(in_folder("good.q35"), NULL, NULL, NULL));
    CHECK(BAD_TEXT, q35rt_open("\xff\xfe", NULL, &model, &error));

    /* What is no bundle, or not one for this library and this machine. */
    CHECK(NOT_A_BUNDLE, told(q35rt_open(in_folder("none.q35"), NULL, &model, &error), &error, "error[Q35-0501]"));
    CHECK(NOT_A_BUNDLE, q35rt_open("", NULL, &model, NULL));
    CHECK(OTHER_SCHEMA, told(q35rt_open(in_folder("schema.q35"), NULL, &model, &error), &error, "schema version 9"));
    CHECK(LACKS_FEATURE, told(q35rt_open(in_folder("arch.q35"), NULL, &model, &error), &error, "compiled for mips64"));
    CHECK(DAMAGED, told(q35rt_open(in_folder("damaged.q35"), NULL, &model, &error), &error, "weights.safetensors"));
    CHECK(DAMAGED, told(q35rt_open(in_folder("object.q35"), NULL, &model, &error), &error, "cpu/model.so"));
    CHECK(1, model == NULL);

    q35rt_options bad[] = {{.threads = -1}, {.threads = INT_MAX}, {.slots = -1}, {.capacity = INT_MIN}, {.max_tokens = -1}};
    for (size_t at = 0; at < sizeof bad / sizeof *bad; at++) CHECK(BAD_NUMBER, q35rt_open(in_folder("good.q35"), &bad[at], &model, NULL));
    q35rt_options level = {.level = "abacus"}, no_text = {.level = "\x80"};
    CHECK(LACKS_FEATURE, told(q35rt_open(in_folder("good.q35"), &level, &model, &error), &error, "'abacus'"));
    CHECK(BAD_TEXT, q35rt_open(in_folder("good.q35"), &no_text, &model, &error));
    CHECK(1, model == NULL && error == NULL);

    q35rt_close(NULL);
    q35rt_error_free(NULL);
    CHECK(1, q35rt_error_text(NULL) == NULL);
    CHECK(1, strlen(q35rt_version()) > 0);
    for (int32_t status = Q35RT_STATUS_BUG; status <= OK; status++) CHECK(1, strlen(q35rt_status_text(status)) > 0);
    CHECK(0, strlen(q35rt_status_text(1)));
    CHECK(0, strlen(q35rt_status_text(INT_MIN)));
}

static void steps(q35rt_model *model) {
    static float logits[VOCAB], again[VOCAB];
    q35rt_error *error = NULL;
    int32_t prompt[] = {1, 2, 3, 4, 5, 6, 7}, beyond[] = {1, VOCAB}, negative[] = {-1}, many[CAPACITY + 1] = {0};
    CHECK(NULL_ARGUMENT, q35rt_vocab(NULL));
    CHECK(NULL_ARGUMENT, q35rt_capacity(NULL));
    CHECK(NULL_ARGUMENT, q35rt_length(NULL, 0));
    CHECK(NULL_ARGUMENT, q35rt_truncate(NULL, 0, 0));
    CHECK(NULL_ARGUMENT, q35rt_step(NULL, 0, prompt, 1, logits, &error));
    CHECK(VOCAB, q35rt_vocab(model));
    CHECK(CAPACITY, q35rt_capacity(model));
    CHECK(0, q35rt_length(model, 1));
    CHECK(BAD_SLOT, q35rt_length(model, 2));
    CHECK(BAD_SLOT, q35rt_length(model, -1));
    CHECK(BAD_SLOT, q35rt_truncate(model, INT_MAX, 0));
    CHECK(BAD_NUMBER, q35rt_truncate(model, 0, -1));

    CHECK(OK, q35rt_step(model, 0, prompt, 6, NULL, &error));
    CHECK(NULL_ARGUMENT, q35rt_step(model, 0, NULL, 1, logits, &error));
    CHECK(BAD_NUMBER, q35rt_step(model, 0, prompt, 0, logits, &error));
    CHECK(BAD_NUMBER, q35rt_step(model, 0, prompt, INT_MIN, logits, &error));
    CHECK(BAD_SLOT, q35rt_step(model, 2, prompt, 1, logits, &error));
    CHECK(BAD_SLOT, q35rt_step(model, -1, prompt, 1, logits, &error));
    CHECK(BAD_TOKEN, told(q35rt_step(model, 0, beyond, 2, logits, &error), &error, "token 320 is outside the vocabulary of 320"));
    CHECK(BAD_TOKEN, q35rt_step(model, 0, negative, 1, logits, NULL));
    CHECK(CONTEXT_FULL, told(q35rt_step(model, 0, many, CAPACITY - 5, logits, &error), &error, "capacity of 24"));
    CHECK(6, q35rt_length(model, 0));
    CHECK(1, error == NULL);

    /* What was refused has left nothing behind; a full slot can be shortened. */
    CHECK(OK, q35rt_step(model, 0, prompt + 6, 1, logits, NULL));
    CHECK(OK, q35rt_step(model, 1, prompt, 7, again, NULL));
    CHECK(0, memcmp(logits, again, sizeof logits));
    CHECK(OK, q35rt_step(model, 0, many, CAPACITY - 7, NULL, NULL));
    CHECK(CAPACITY, q35rt_length(model, 0));
    CHECK(CONTEXT_FULL, q35rt_step(model, 0, many, 1, NULL, NULL));
    CHECK(OK, q35rt_truncate(model, 0, 6));
    CHECK(OK, q35rt_step(model, 0, prompt + 6, 1, again, NULL));
    CHECK(0, memcmp(logits, again, sizeof logits));
    for (int32_t slot = 0; slot < 2; slot++) CHECK(OK, q35rt_truncate(model, slot, 0));
}

/* Another thread, while a model generates. */
struct visit {
    q35rt_model *model;
    int32_t seen;
    int pieces;
};

static void *intrude(void *user) {
    struct visit *visit = user;
    int32_t token = 1;
    visit->seen = q35rt_step(visit->model, 1, &token, 1, NULL, NULL);
    return NULL;
}

static int32_t visited(void *user, const char *piece) {
    struct visit *visit = user;
    pthread_t thread;
    pthread_create(&thread, NULL, intrude, visit);
    pthread_join(thread, NULL);
    if (visit->seen == BUSY) visit->seen = q35rt_truncate(visit->model, 0, 0); /* and from inside the same thread */
    visit->pieces++;
    return strlen(piece) == 0;
}

static int32_t enough(void *user, const char *piece) {
    (void)piece;
    ++*(int *)user;
    return 1;
}

static void generation(q35rt_model *model, q35rt_model *silent) {
    q35rt_error *error = NULL;
    int calls = 0;
    CHECK(NULL_ARGUMENT, q35rt_generate(NULL, "w1", 1, NULL, enough, &calls, &error));
    CHECK(NULL_ARGUMENT, q35rt_generate(model, NULL, 1, NULL, enough, &calls, &error));
    CHECK(NULL_ARGUMENT, q35rt_generate(model, "w1", 1, NULL, NULL, NULL, &error));
    CHECK(BAD_NUMBER, q35rt_generate(model, "w1", -1, NULL, enough, &calls, &error));
    CHECK(BAD_TEXT, q35rt_generate(model, "w1 \xc3", 1, NULL, enough, &calls, &error));
    CHECK(BAD_PROMPT, told(q35rt_generate(model, "", 1, NULL, enough, &calls, &error), &error, "the prompt has no tokens"));
    CHECK(NO_TOKENIZER, told(q35rt_generate(silent, "w1", 1, NULL, enough, &calls, &error), &error, "carries no tokenizer"));
    q35rt_sampling bad[] = {{.temperature = NAN}, {.temperature = -1}, {.temperature = INFINITY}, {.top_k = -1}, {.top_p = 2}, {.min_p = -0.5}};
    for (size_t at = 0; at < sizeof bad / sizeof *bad; at++) {
        CHECK(BAD_NUMBER, q35rt_generate(model, "w1", 1, &bad[at], enough, &calls, NULL));
        CHECK(1, q35rt_sampler_open(&bad[at]) == NULL);
    }
    char longer[4 * CAPACITY + 5] = "";
    for (int at = 0; at <= CAPACITY; at++) strcat(longer, "w1 ");
    CHECK(CONTEXT_FULL, told(q35rt_generate(model, longer, 1, NULL, enough, &calls, &error), &error, "0 tokens, and 25 more"));
    CHECK(0, calls);
    CHECK(0, q35rt_length(model, 0));

    struct visit visit = {.model = model};
    CHECK(OK, q35rt_generate(model, "w1 w2 w3", 4, NULL, visited, &visit, &error));
    CHECK(BUSY, visit.seen);
    CHECK(1, visit.pieces > 0);
    CHECK(0, q35rt_length(model, 1));
    int32_t before = q35rt_length(model, 0);
    CHECK(OK, q35rt_generate(model, "w1 w2", 4, NULL, enough, &calls, &error));
    CHECK(1, calls);
    CHECK(before + 2, q35rt_length(model, 0));
    CHECK(1, error == NULL);
}

static void texts(void) {
    q35rt_text *text = NULL, *small = NULL;
    q35rt_error *error = NULL;
    CHECK(NULL_ARGUMENT, q35rt_text_open(NULL, VOCAB, &text, &error));
    CHECK(NULL_ARGUMENT, q35rt_text_open(in_folder("tokenizer.json"), VOCAB, NULL, &error));
    CHECK(BAD_NUMBER, q35rt_text_open(in_folder("tokenizer.json"), -1, &text, &error));
    CHECK(CANNOT_READ, told(q35rt_text_open(in_folder("none.json"), VOCAB, &text, &error), &error, "none.json"));
    CHECK(NO_TOKENIZER, told(q35rt_text_open(in_folder("wrong.json"), VOCAB, &text, &error), &error, "the tokenizer cannot be used"));
    CHECK(1, text == NULL);
    CHECK(OK, q35rt_text_open(in_folder("tokenizer.json"), VOCAB, &text, &error));
    CHECK(OK, q35rt_text_open(in_folder("tokenizer.json"), 10, &small, &error));

    int32_t tokens[4] = {-7, -7, -7, -7}, unknown[] = {5, INT_MIN, 6};
    CHECK(NULL_ARGUMENT, q35rt_text_encode(NULL, "w1", tokens, 4, &error));
    CHECK(NULL_ARGUMENT, q35rt_text_encode(text, NULL, tokens, 4, &error));
    CHECK(NULL_ARGUMENT, q35rt_text_encode(text, "w1", NULL, 1, &error));
    CHECK(BAD_NUMBER, q35rt_text_encode(text, "w1", tokens, -1, &error));
    CHECK(BAD_TEXT, q35rt_text_encode(text, "\xed\xa0\x80", tokens, 4, &error));
    CHECK(BAD_TOKEN, told(q35rt_text_encode(small, "w5 w50", tokens, 4, &error), &error, "token 50"));
    CHECK(-7, tokens[0]);
    CHECK(3, q35rt_text_encode(text, "w5 w6 w7", tokens, 2, &error)); /* no more than there is room for */
    CHECK(1, tokens[0] == 5 && tokens[1] == 6 && tokens[2] == -7);
    CHECK(3, q35rt_text_encode(text, "w5 w6 w7", NULL, 0, &error));
    CHECK(0, q35rt_text_encode(text, "", tokens, 4, &error));

    char *words = malloc(6); /* exactly what two words take, so that a watch sees one byte more */
    memset(words, 'x', 6);
    CHECK(NULL_ARGUMENT, q35rt_text_decode(NULL, tokens, 2, words, 6, &error));
    CHECK(NULL_ARGUMENT, q35rt_text_decode(text, NULL, 2, words, 6, &error));
    CHECK(NULL_ARGUMENT, q35rt_text_decode(text, tokens, 2, NULL, 6, &error));
    CHECK(BAD_NUMBER, q35rt_text_decode(text, tokens, -1, words, 6, &error));
    CHECK(BAD_NUMBER, q35rt_text_decode(text, tokens, 2, words, INT_MIN, &error));
    CHECK(6, q35rt_text_decode(text, tokens, 2, words, 5, &error)); /* one byte short */
    CHECK(1, words[0] == 'x' && words[5] == 'x');
    CHECK(6, q35rt_text_decode(text, tokens, 2, NULL, 0, &error));
    CHECK(6, q35rt_text_decode(text, tokens, 2, words, 6, &error));
    CHECK(0, strcmp(words, "w5 w6"));
    CHECK(1, q35rt_text_decode(text, NULL, 0, words, 6, &error));
    CHECK(0, strcmp(words, ""));
    CHECK(6, q35rt_text_decode(text, unknown, 3, words, 6, &error)); /* what is no token has no text */
    free(words);
    q35rt_text_close(small);
    q35rt_text_close(text);
    q35rt_text_close(NULL);
    CHECK(1, error == NULL);
}

static void sampling(void) {
    q35rt_sampler *sampler = q35rt_sampler_open(NULL);
    float logits[] = {0, 3, 1}, none[] = {NAN, NAN};
    CHECK(NULL_ARGUMENT, q35rt_sample(NULL, logits, 3));
    CHECK(NULL_ARGUMENT, q35rt_sample(sampler, NULL, 3));
    CHECK(BAD_NUMBER, q35rt_sample(sampler, logits, 0));
    CHECK(BAD_NUMBER, q35rt_sample(sampler, logits, -1));
    CHECK(1, q35rt_sample(sampler, logits, 3));
    q35rt_sampler_close(sampler);
    q35rt_sampling settings = {.temperature = 0.7, .top_k = 2, .top_p = 0.9, .min_p = 0.1, .seed = 3};
    sampler = q35rt_sampler_open(&settings);
    for (int at = 0; at < 20; at++) {
        int32_t token = q35rt_sample(sampler, none, 2); /* no numbers, and yet a token */
        CHECK(1, token == 0 || token == 1);
    }
    q35rt_sampler_close(sampler);
    q35rt_sampler_close(NULL);
}

/* A task that counts, and inside which the pool is asked again. */
struct sum {
    q35rt_pool *pool;
    int64_t parts[64];
};

static void one(void *data, int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at++) ((int64_t *)data)[at] += at;
}

static void nested(void *data, int64_t begin, int64_t end) {
    struct sum *sum = data;
    int64_t inner[8] = {0};
    q35rt_pool_share(sum->pool, one, inner, 8);
    int64_t total = 0;
    for (int at = 0; at < 8; at++) total += inner[at];
    for (int64_t at = begin; at < end; at++) sum->parts[at] += total;
}

static void pools(void) {
    CHECK(1, q35rt_pool_open(-1) == NULL);
    CHECK(1, q35rt_pool_open(INT_MAX) == NULL);
    int64_t parts[64] = {0};
    q35rt_pool_share(NULL, one, parts, 64);
    q35rt_pool *pool = q35rt_pool_open(3);
    q35rt_pool_share(pool, one, parts, 64);
    q35rt_pool_share(pool, NULL, parts, 64);
    q35rt_pool_share(pool, one, parts, 0);
    q35rt_pool_share(pool, one, parts, INT64_MIN);
    for (int at = 0; at < 64; at++) CHECK(2 * at, parts[at]);
    struct sum sum = {.pool = pool};
    q35rt_pool_share(pool, nested, &sum, 64);
    for (int at = 0; at < 64; at++) CHECK(28, sum.parts[at]);
    q35rt_pool_close(pool);
    q35rt_pool_close(NULL);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    folder = argv[1];
    opening();
    q35rt_options options = {.threads = 2, .slots = 2, .capacity = CAPACITY, .max_tokens = 5};
    q35rt_model *model, *silent;
    q35rt_error *error = NULL;
    CHECK(OK, q35rt_open(in_folder("good.q35"), &options, &model, &error));
    CHECK(OK, q35rt_open(in_folder("silent.q35"), &options, &silent, &error));
    if (model != NULL && silent != NULL) {
        steps(model);
        generation(model, silent);
    }
    q35rt_close(silent);
    q35rt_close(model);
    texts();
    sampling();
    pools();
    printf("%d failures\n", failures);
    return failures != 0;
}
