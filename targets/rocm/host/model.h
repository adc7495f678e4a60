/* Written by q35c.
 *
 * A model on an AMD GPU, for programs that link q35_model.hip.cpp with HIP. The kernels and the weights are files of the bundle.
 *
 * Functions give 0, or another number after which @PREFIX@q35_error says what went wrong. A model is used by one thread at a time.
 */
#ifndef @GUARD@
#define @GUARD@

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct @PREFIX@q35_model @PREFIX@q35_model;

enum { @PREFIX@Q35_VOCAB = @VOCAB@ };

/* Opens the bundle's folder on the first GPU: a cache of `slots` sequences of `capacity` tokens, and steps of at most `max_tokens` tokens.
 * `*model` is to be closed whether or not this succeeds. */
int @PREFIX@q35_open(@PREFIX@q35_model **model, const char *folder, int32_t slots, int32_t capacity, int32_t max_tokens);

/* Runs `tokens` tokens: their ids, positions, slots, and which entry of its slot each becomes. `logits` gets @PREFIX@Q35_VOCAB numbers for each
 * of the `rows` tokens that `logit_rows` lists. */
int @PREFIX@q35_step(@PREFIX@q35_model *model, int32_t tokens, const int32_t *ids, const int32_t *positions, const int32_t *slots,
                     const int32_t *index, int32_t rows, const int32_t *logit_rows, float *logits);

/* As @PREFIX@q35_step, but the card keeps the logits, and gives for each of the `rows` tokens the id of the largest, of equal ones the first. */
int @PREFIX@q35_choose(@PREFIX@q35_model *model, int32_t tokens, const int32_t *ids, const int32_t *positions, const int32_t *slots,
                       const int32_t *index, int32_t rows, const int32_t *logit_rows, int32_t *chosen);

/* What went wrong last. */
const char *@PREFIX@q35_error(const @PREFIX@q35_model *model);

/* Frees everything. */
void @PREFIX@q35_close(@PREFIX@q35_model *model);

#ifdef __cplusplus
}
#endif

#endif
