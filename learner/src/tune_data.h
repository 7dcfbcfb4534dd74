/* The images of a gradient training, and what was computed of them once: teacher logits and what
 * layers make of an image below the lowest one that learns. Every image has one or two views, the
 * second mirrored; view i is image i % count. Private. */
#ifndef LEARNER_TUNE_DATA_H
#define LEARNER_TUNE_DATA_H

#include "cache.h"
#include "embed.h"
#include "feed.h"
#include "method.h"

struct learner_tune_data {
    struct learner_samples pool;             /* new samples first, then exemplars */
    size_t views;                            /* 1 or 2 */
    int32_t *labels;                         /* [pool.count]; -1: a class that the model lacks */
    const struct learner_embedding *teacher; /* [views * pool.count]; NULL: none */
    struct learner_embedding own;            /* what teacher points to when it was made here */
    struct learner_net *net;                 /* borrowed, from learner_tune_data_feed on */
    struct learner_feed feed;                /* of the pool */
    /* What the frozen prefix makes of a view: a table on a device apart that has room for it, else
     * records on the host. Both NULL: there is no prefix, or no use for it */
    float *table;
    bool *in_table; /* [views * pool.count] */
    struct learner_cache *cache;
    float *records; /* [micro, prefix] on their way into the cache */
};

/*   replay   exemplars too
 *   fails    NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_tune_data_init(struct learner_tune_data *data,
                                                        const struct learner_task *task,
                                                        bool replay, size_t views,
                                                        struct delta_error *err);
void learner_tune_data_release(struct learner_tune_data *data);

/* From now on the images go into this net, which must live until the release. again: more than
 * once */
void learner_tune_data_feed(struct learner_tune_data *data, struct learner_net *net,
                            const struct delta_arch *arch, bool again);

/* Keeps records of the net's frozen prefix, where it has one, for passes of `micro` images. A lack
 * of room is no failure: the prefix is then computed each time. */
DELTA_MUST_USE enum delta_status learner_tune_data_cache(struct learner_tune_data *data,
                                                         size_t micro,
                                                         const struct learner_budget *budget,
                                                         struct delta_error *err);
bool learner_tune_data_caches(const struct learner_tune_data *data);

/* Teacher logits of all views by `teacher`. */
DELTA_MUST_USE enum delta_status learner_tune_data_teach(struct learner_tune_data *data,
                                                         const struct delta_model *teacher,
                                                         const struct learner_budget *budget,
                                                         struct delta_error *err);

/* A forward pass over n views, with activations kept: from the cache when it has all of them. What
 * is not finite is told by learner_net_learn, to be called next. */
DELTA_MUST_USE enum delta_status learner_tune_data_forward(struct learner_tune_data *data,
                                                           const uint32_t *index, size_t n,
                                                           struct delta_error *err);

/* What a frozen prefix made of all views of a task's pool, kept from one use to the next. */
struct learner_prefix {
    struct learner_cache *cache; /* owned; NULL: nothing is kept */
    size_t layers, floats;       /* of the prefix, and of a record: they tell which it is */
};
void learner_prefix_release(struct learner_prefix *prefix);

/* Features and logits of the task's pool (new samples, then exemplars) by the base, keeping on the
 * way what the layers make of it that `plan` freezes below the lowest live one. Where the
 * exemplars' latents are just that and their features are known, these are taken, and `out` is of
 * the new samples alone.
 *
 *   prefix   empty at first; left empty where there is no room, nothing is frozen, or the device
 *            is apart
 *
 *   fails    INTERRUPTED, NONFINITE, NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_prefix_embed(struct learner_embedding *out,
                                                      struct learner_prefix *prefix,
                                                      const struct learner_task *task,
                                                      const struct delta_model *plan, size_t views,
                                                      struct delta_error *err);

/* Moves what was kept into the data, where it is the prefix of the data's own net; else as
 * learner_tune_data_cache. */
DELTA_MUST_USE enum delta_status learner_tune_data_take(struct learner_tune_data *data,
                                                        struct learner_prefix *prefix, size_t micro,
                                                        const struct learner_budget *budget,
                                                        struct delta_error *err);

/* Features and logits of the first `count` views with the net as it is now, through the cache.
 *   fails    INTERRUPTED, NONFINITE, NO_MEMORY */
DELTA_MUST_USE enum delta_status
learner_tune_data_embed(struct learner_embedding *out, struct learner_tune_data *data, size_t count,
                        const struct learner_budget *budget, struct delta_error *err);

/* Bytes of the cache for so many views. */
size_t learner_tune_data_cache_bytes(const struct learner_budget *budget, size_t views,
                                     size_t floats);

#endif
