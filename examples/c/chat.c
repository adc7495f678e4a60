/* Talks with a model that is loaded at run time: text in, text out, with the runtime's threads, tokenizer and sampler.
 *
 *   cc examples/c/chat.c $(pkg-config --cflags --libs q35rt) -o chat
 *   echo 'Ownership is' | ./chat tiny.q35 24
 *
 * Every line of input continues the conversation. The small model is trained on documentation, so it goes on rather than answer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "q35rt.h"

static int32_t print(void *user, const char *piece) {
    (void)user;
    fputs(piece, stdout);
    fflush(stdout);
    return 0;
}

/* Ends the program if a call did not succeed; the error is looked at after the call has set it. */
static void check(int32_t status, q35rt_error **error) {
    if (status == Q35RT_STATUS_OK) return;
    fprintf(stderr, "%s\n", *error != NULL ? q35rt_error_text(*error) : q35rt_status_text(status));
    q35rt_error_free(*error);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s BUNDLE [TOKENS PER LINE]\n", argv[0]);
        return 2;
    }
    int count = argc > 2 ? atoi(argv[2]) : 64;
    q35rt_options options = {.capacity = 256};
    q35rt_model *model;
    q35rt_error *error = NULL;
    check(q35rt_open(argv[1], &options, &model, &error), &error);

    char line[4096];
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        printf("%s", line);
        check(q35rt_generate(model, line, count, NULL, print, NULL, &error), &error);
        printf("\n");
    }
    q35rt_close(model);
    return 0;
}
