#include "delta/chain.h"

enum delta_status delta_chain_apply(const struct delta_model *base,
                                    const struct delta_reader *deltas, size_t count,
                                    struct delta_model *out, struct delta_error *err)
{
    struct delta_model at = DELTA_MODEL_INIT;
    enum delta_status st = count ? DELTA_OK : delta_model_copy(&at, base, err);

    for (size_t i = 0; i < count && !st; i++) {
        struct delta_model next = DELTA_MODEL_INIT;
        st = delta_apply(i ? &at : base, &deltas[i], &next, err);
        if (st && count > 1)
            st = delta_fail_in(err, st, "delta %zu of %zu", i + 1, count);
        if (!st) {
            delta_model_release(&at);
            at = next;
        }
    }
    if (st) {
        delta_model_release(&at);
        return st;
    }
    *out = at;
    return DELTA_OK;
}

enum delta_status delta_squash(const struct delta_model *base, const struct delta_reader *deltas,
                               size_t count, const struct delta_options *options,
                               struct delta_buf *out, struct delta_error *err)
{
    struct delta_model target = DELTA_MODEL_INIT;
    enum delta_status st = delta_chain_apply(base, deltas, count, &target, err);

    *out = (struct delta_buf){0};
    if (!st)
        st = delta_diff(base, &target, options, out, err);
    delta_model_release(&target);
    return st;
}

enum delta_status delta_invert(const struct delta_model *base, const struct delta_reader *delta,
                               const struct delta_options *options, struct delta_buf *out,
                               struct delta_error *err)
{
    struct delta_model target = DELTA_MODEL_INIT;
    enum delta_status st = delta_apply(base, delta, &target, err);

    *out = (struct delta_buf){0};
    if (!st)
        st = delta_diff(&target, base, options, out, err);
    delta_model_release(&target);
    return st;
}
