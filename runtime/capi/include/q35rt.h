#ifndef Q35RT_H
#define Q35RT_H

#include <stddef.h>
#include <stdint.h>

/* q35rt.h: loads and runs bundles of every target, with threads, tokenizer and sampler. Written by cbindgen from runtime/capi.
 *
 *   cc app.c $(pkg-config --cflags --libs q35rt)
 *
 * Functions return 0, a number where they say so, a negative status of q35rt_status, or the number of a diagnostic: 601 is Q35-0601, and
 * docs/src/errors.md lists them. Where there is a parameter `error`, it may be NULL; else it is set to NULL, or to an error that the
 * caller frees.
 *
 * Threads: an object serves one thread at a time, and a call while another one runs returns Q35RT_BUSY and changes nothing. Different
 * objects are independent. NULL is detected, other bad pointers cannot be.
 */

/*
 What a function returns when it is not the number of a diagnostic.
 */
enum q35rt_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /*
     Done.
     */
    Q35RT_STATUS_OK = 0,
    /*
     An argument that must point somewhere is NULL.
     */
    Q35RT_STATUS_NULL_ARGUMENT = -1,
    /*
     Another thread is using the object.
     */
    Q35RT_STATUS_BUSY = -2,
    /*
     There is no such slot.
     */
    Q35RT_STATUS_BAD_SLOT = -3,
    /*
     A number is out of range.
     */
    Q35RT_STATUS_BAD_NUMBER = -4,
    /*
     A text is not in UTF-8.
     */
    Q35RT_STATUS_BAD_TEXT = -5,
    /*
     The library has failed in a way that it should not: please report it.
     */
    Q35RT_STATUS_BUG = -6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum q35rt_status q35rt_status;
#else
typedef int32_t q35rt_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 Why a call failed: the text of its diagnostics.
 */
typedef struct q35rt_error q35rt_error;

/*
 A bundle with its device, and a cache of some sequences in progress.
 */
typedef struct q35rt_model q35rt_model;

/*
 Threads that share the work of a step.
 */
typedef struct q35rt_pool q35rt_pool;

/*
 Settings, and the state of the random numbers.
 */
typedef struct q35rt_sampler q35rt_sampler;

/*
 A tokenizer.
 */
typedef struct q35rt_text q35rt_text;

/*
 How a bundle is opened; all zeros is a good beginning.
 */
typedef struct q35rt_options {
    /*
     Feature level by name, such as "base"; NULL for the best one that this machine can run.
     */
    const char *level;
    /*
     Threads, at most 4096; 0 for as many as the system lets this process use.
     */
    int32_t threads;
    /*
     Sequences in progress at the same time; 0 for 1.
     */
    int32_t slots;
    /*
     Tokens of a sequence; 0 for 1024, and no more than the model's context.
     */
    int32_t capacity;
    /*
     Tokens that are computed at once; 0 for 256.
     */
    int32_t max_tokens;
    /*
     Not 0: the weights are not compared with their hash. Opens faster, and misses damage.
     */
    int32_t trust_weights;
} q35rt_options;

/*
 How a token is chosen; all zeros take the most probable one.
 */
typedef struct q35rt_sampling {
    /*
     Divides the logits; 0 takes the most probable token.
     */
    double temperature;
    /*
     Keeps the so many most probable tokens; 0 keeps all.
     */
    int32_t top_k;
    /*
     Keeps the most probable tokens until their probabilities sum to this; 0 and 1 keep all.
     */
    double top_p;
    /*
     Keeps tokens with at least this fraction of the largest probability; 0 keeps all.
     */
    double min_p;
    /*
     Start of the random numbers: the same seed gives the same tokens.
     */
    uint64_t seed;
} q35rt_sampling;

/*
 Hears the text that a generation makes, in whole characters. A result other than 0 ends the generation.
 */
typedef int32_t (*q35rt_sink)(void *user, const char *piece);

/*
 Computes the pieces begin..end of some work.
 */
typedef void (*q35rt_task)(void *data, int64_t begin, int64_t end);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Version of the library.
 */
const char *q35rt_version(void);

/*
 One line of English for a negative status; empty for any other number. The text stays valid.
 */
const char *q35rt_status_text(int32_t status);

/*
 The text of an error, valid until it is freed; NULL for NULL.

 # Safety
 `error` is NULL or an error that was not freed.
 */
const char *q35rt_error_text(const struct q35rt_error *error);

/*
 Frees an error; NULL is none.

 # Safety
 `error` is NULL or an error that was not freed.
 */
void q35rt_error_free(struct q35rt_error *error);

/*
 Opens the bundle at `path`, a folder NAME.q35. `options` may be NULL.

 # Safety
 Pointers are NULL or valid; `path` and `options->level` end with a zero.
 */
int32_t q35rt_open(const char *path, const struct q35rt_options *options, struct q35rt_model **model, struct q35rt_error **error);

/*
 Closes a model; NULL is none.

 # Safety
 `model` is NULL or was opened and not closed, and no other thread uses it.
 */
void q35rt_close(struct q35rt_model *model);

/*
 Size of the vocabulary: tokens are 0 to this minus 1, and a row of logits has so many floats.

 # Safety
 `model` is NULL or a model.
 */
int32_t q35rt_vocab(const struct q35rt_model *model);

/*
 Tokens that a sequence may have.

 # Safety
 `model` is NULL or a model.
 */
int32_t q35rt_capacity(const struct q35rt_model *model);

/*
 Tokens that a slot holds.

 # Safety
 `model` is NULL or a model.
 */
int32_t q35rt_length(const struct q35rt_model *model, int32_t slot);

/*
 Forgets all but the first `length` tokens of a slot.

 # Safety
 `model` is NULL or a model.
 */
int32_t q35rt_truncate(const struct q35rt_model *model, int32_t slot, int32_t length);

/*
 Continues the sequence of `slot` by `count` tokens, and writes the logits after the last one to `logits`, q35rt_vocab floats, unless it
 is NULL.

 # Safety
 Pointers are NULL or valid for so many values.
 */
int32_t q35rt_step(const struct q35rt_model *model,
                   int32_t slot,
                   const int32_t *tokens,
                   int32_t count,
                   float *logits,
                   struct q35rt_error **error);

/*
 Continues what slot 0 holds by a prompt and then by up to `count` tokens, whose text comes to `sink`. `sampling` may be NULL, which
 takes the most probable token. Returns 0 when the model ended the text, when there are so many tokens, when the context is full, or when
 `sink` ended it.

 # Safety
 Pointers are NULL or valid; `prompt` ends with a zero.
 */
int32_t q35rt_generate(const struct q35rt_model *model,
                       const char *prompt,
                       int32_t count,
                       const struct q35rt_sampling *sampling,
                       q35rt_sink sink,
                       void *user,
                       struct q35rt_error **error);

/*
 Opens a tokenizer.json of a bundle, for a model that knows the tokens 0 to `vocab` - 1.

 # Safety
 Pointers are NULL or valid; `path` ends with a zero.
 */
int32_t q35rt_text_open(const char *path, int32_t vocab, struct q35rt_text **text, struct q35rt_error **error);

/*
 Closes a tokenizer; NULL is none.

 # Safety
 `text` is NULL or was opened and not closed.
 */
void q35rt_text_close(struct q35rt_text *text);

/*
 The tokens of `utf8`, as many as `capacity` allows. Returns how many there are, even if that is more.

 # Safety
 Pointers are NULL or valid for so many values; `utf8` ends with a zero.
 */
int32_t q35rt_text_encode(const struct q35rt_text *text, const char *utf8, int32_t *tokens, int32_t capacity, struct q35rt_error **error);

/*
 The text of `count` tokens, in UTF-8 with a zero at its end, if that fits into `capacity` bytes. Returns how many bytes it takes, the
 zero included, even if that is more.

 # Safety
 Pointers are NULL or valid for so many values.
 */
int32_t q35rt_text_decode(const struct q35rt_text *text,
                          const int32_t *tokens,
                          int32_t count,
                          char *utf8,
                          int32_t capacity,
                          struct q35rt_error **error);

/*
 A sampler at the start of its sequence; `sampling` may be NULL. Result NULL if a number is out of range.

 # Safety
 `sampling` is NULL or valid.
 */
struct q35rt_sampler *q35rt_sampler_open(const struct q35rt_sampling *sampling);

/*
 Closes a sampler; NULL is none.

 # Safety
 `sampler` is NULL or was opened and not closed.
 */
void q35rt_sampler_close(struct q35rt_sampler *sampler);

/*
 The token that is chosen for a row of `vocab` logits.

 # Safety
 Pointers are NULL or valid for so many values.
 */
int32_t q35rt_sample(const struct q35rt_sampler *sampler, const float *logits, int32_t vocab);

/*
 Threads, this one included, at most 4096; 0 for as many as the system lets this process use. NULL if `threads` is out of range.
 */
struct q35rt_pool *q35rt_pool_open(int32_t threads);

/*
 Ends the threads; NULL is nothing.

 # Safety
 `pool` is NULL or was opened and not closed, and no context uses it.
 */
void q35rt_pool_close(struct q35rt_pool *pool);

/*
 Distributes the pieces 0..tiles of a task among the threads of a pool, and returns when all are done: a function for PREFIXshare of a
 model's object, with the pool as its `user`. While another thread uses the pool, and with NULL for one, this thread computes all.

 # Safety
 `pool` is NULL or a pool; `task` may be called with `data`, in any thread, for disjoint ranges.
 */
void q35rt_pool_share(void *pool, q35rt_task task, void *data, int64_t tiles);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* Q35RT_H */
