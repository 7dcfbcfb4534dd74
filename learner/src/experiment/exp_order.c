/* Class orders. "pycil:SEED" is what class-incremental papers call a seed: the permutation of
 * NumPy's legacy generator (MT19937, Matsumoto and Nishimura 1998; masked rejection, Fisher-Yates
 * from the end), so that their orders need no file. */
#include "exp_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "rng.h"

#define MT_SIZE 624
#define MT_SHIFT 397
#define MAX_ORDER_BYTES ((size_t)1 << 20)
#define STREAM_ORDER 77

struct mt {
    uint32_t state[MT_SIZE];
    size_t at;
};

static void mt_init(struct mt *mt, uint32_t seed)
{
    mt->state[0] = seed;
    for (uint32_t i = 1; i < MT_SIZE; i++)
        mt->state[i] = 1812433253u * (mt->state[i - 1] ^ (mt->state[i - 1] >> 30)) + i;
    mt->at = MT_SIZE;
}

static uint32_t mt_next(struct mt *mt)
{
    if (mt->at == MT_SIZE) {
        for (size_t i = 0; i < MT_SIZE; i++) {
            const uint32_t y =
                (mt->state[i] & 0x80000000u) | (mt->state[(i + 1) % MT_SIZE] & 0x7fffffffu);
            mt->state[i] =
                mt->state[(i + MT_SHIFT) % MT_SIZE] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        mt->at = 0;
    }
    uint32_t y = mt->state[mt->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static void shuffle_numpy(uint32_t *items, size_t count, uint32_t seed)
{
    struct mt mt;

    mt_init(&mt, seed);
    for (size_t i = count; i-- > 1;) {
        uint32_t mask = (uint32_t)i, j;
        for (int shift = 1; shift <= 16; shift *= 2)
            mask |= mask >> shift;
        do
            j = mt_next(&mt) & mask;
        while (j > i);
        const uint32_t swap = items[i];
        items[i] = items[j];
        items[j] = swap;
    }
}

static enum delta_status read_order(uint32_t *out, size_t class_count, const char *path,
                                    struct delta_error *err)
{
    bool *seen = delta_calloc(class_count + 1, sizeof *seen);
    struct delta_buf text;
    enum delta_status st = delta_file_read(path, MAX_ORDER_BYTES, &text, err);
    size_t used = 0, line = 1;

    if (!st)
        st = delta_buf_append(&text, "", 1, err);
    if (!st && !seen)
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (char *at = (char *)text.data; !st && at && *at; line++) {
        char *next = strchr(at, '\n'), *rest;
        if (next)
            *next++ = '\0';
        if (at[strspn(at, " \t\r")]) {
            const unsigned long label = strtoul(at, &rest, 10);
            if (rest == at || rest[strspn(rest, " \t\r")] || label >= class_count)
                st = delta_fail(err, DELTA_FORMAT,
                                "'%s', line %zu: '%.20s' is not a label below %zu", path, line, at,
                                class_count);
            else if (seen[label])
                st = delta_fail(err, DELTA_FORMAT, "'%s', line %zu: label %lu stands there twice",
                                path, line, label);
            else {
                seen[label] = true;
                out[used++] = (uint32_t)label;
            }
        }
        at = next;
    }
    if (!st && used != class_count)
        st = delta_fail(err, DELTA_FORMAT, "'%s' has %zu labels, the data %zu classes", path, used,
                        class_count);
    delta_buf_release(&text);
    free(seen);
    return st;
}

/* "pycil:1993" with the prefix "pycil:" */
static bool seed_of(uint32_t *seed, const char *spec, const char *prefix)
{
    const size_t len = strlen(prefix);
    char *end;

    if (strncmp(spec, prefix, len) != 0 || spec[len] < '0' || spec[len] > '9')
        return false;
    const unsigned long long value = strtoull(spec + len, &end, 10);
    *seed = (uint32_t)value;
    return !*end && value <= UINT32_MAX;
}

enum delta_status exp_order_make(uint32_t *out, size_t class_count, const char *spec,
                                 const char *dir, struct delta_error *err)
{
    struct learner_rng rng;
    uint32_t seed;
    char path[1024];
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; i < class_count; i++)
        out[i] = (uint32_t)i;
    if (strcmp(spec, "source") == 0)
        return DELTA_OK;
    if (seed_of(&seed, spec, "pycil:")) {
        shuffle_numpy(out, class_count, seed);
        return DELTA_OK;
    }
    if (seed_of(&seed, spec, "seed:")) {
        learner_rng_init(&rng, seed, STREAM_ORDER);
        learner_rng_shuffle(&rng, out, class_count);
        return DELTA_OK;
    }
    if (!strchr(spec, '/') && !strchr(spec, '.'))
        return delta_fail(err, DELTA_FORMAT,
                          "order '%s' is none of source, pycil:SEED, seed:N, or a file of labels",
                          spec);
    if (spec[0] == '/')
        snprintf(path, sizeof path, "%s", spec);
    else
        st = delta_path_join(path, sizeof path, dir, spec, err);
    return st ? st : read_order(out, class_count, path, err);
}
