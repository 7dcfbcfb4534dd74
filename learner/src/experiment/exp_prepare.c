/* What runs share and what is made once: base networks and the exemplars chosen with them. */
#include "exp_once.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delta/file.h"
#include "exp_clock.h"
#include "learner/networks.h"

#define PROBE_SEED 1

static bool watch(void *context, const char *stage, double done, double total)
{
    exp_pulse_tick(context, stage, done, total, exp_now_ms());
    return true;
}

static void short_digest(char out[17], const char *text)
{
    const struct delta_digest digest = delta_sha256(delta_bytes(text, strlen(text)));
    char hex[DELTA_DIGEST_HEX];

    delta_digest_hex(hex, &digest);
    snprintf(out, 17, "%.16s", hex);
}

enum delta_status exp_files_name(struct exp_files *out, const struct learner_experiment *plan,
                                 const struct exp_run *run, const char *cache,
                                 struct delta_error *err)
{
    const struct exp_base *base = &plan->bases[run->base];
    const int64_t exemplars = plan->variants[run->variant].exemplars;
    char text[900], name[128], digest[17];
    enum delta_status st = DELTA_OK;

    exp_base_text(text, sizeof text, plan, run);
    out->exemplars[0] = '\0';
    if (base->pretrained) {
        short_digest(digest, text);
        snprintf(name, sizeof name, "%s-%s.flm", base->name, digest);
        st = delta_path_join(out->base, sizeof out->base, cache, name, err);
    } else {
        snprintf(out->base, sizeof out->base, "%s", base->path);
    }
    if (!st && exemplars > 0) {
        const size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, " exemplars %lld probes %lld pool %lld latents",
                 (long long)exemplars, (long long)plan->probes, (long long)plan->pool);
        short_digest(digest, text);
        snprintf(name, sizeof name, "%s-%s.flx", base->name, digest);
        st = delta_path_join(out->exemplars, sizeof out->exemplars, cache, name, err);
    }
    return st;
}

/* Ids of classes `from` to `to` of the run's order; free() it. */
static struct delta_class_id *ordered(const struct learner_experiment *plan,
                                      const struct exp_run *run, size_t from, size_t to)
{
    struct delta_class_id *ids = delta_calloc(to - from + 1, sizeof *ids);

    for (size_t i = from; ids && i < to; i++)
        ids[i - from] = plan->test.classes[exp_order(plan, run->order)[i]];
    return ids;
}

enum delta_status exp_make_base(const struct learner_experiment *plan,
                                const struct learner_samples *train, const struct exp_run *run,
                                const struct exp_files *files, struct exp_pulse *pulse,
                                struct delta_error *err)
{
    const struct exp_base *base = &plan->bases[run->base];
    const size_t count = (size_t)plan->protocols[run->protocol].base;
    struct learner_pretrain_options options = learner_pretrain_defaults();
    const struct learner_budget budget = {.device = plan->device,
                                          .threads =
                                              (int)(base->threads ? base->threads : plan->threads),
                                          .seed = (uint64_t)base->seed,
                                          .progress = watch,
                                          .context = pulse};
    struct delta_class_id *ids = ordered(plan, run, 0, count);
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    struct delta_arch arch;
    char checkpoint[1300];
    enum delta_status st = ids ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");

    exp_pulse_start(pulse, 1, exp_now_ms());
    snprintf(checkpoint, sizeof checkpoint, "%s.part", files->base);
    options.epochs = (int)base->epochs;
    options.batch = (size_t)base->batch;
    options.lr = base->lr;
    options.weight_decay = base->weight_decay;
    options.augment = base->augment;
    options.mixup = base->mixup;
    options.cutout = (size_t)base->cutout;
    options.label_smoothing = base->label_smoothing;
    options.ema = base->ema;
    options.checkpoint = checkpoint;
    options.every_epochs = 1;
    if (!st)
        st = learner_samples_select(&data, train, ids, count, (size_t)base->per_class, err);
    if (!st)
        st = learner_network_arch(&arch, base->arch, base->stem, (uint32_t)base->width,
                                  data.channels, data.height, data.width, err);
    if (!st)
        st = learner_net_init_model(&model, &arch, data.classes, data.class_count,
                                    (uint64_t)base->seed, err);
    if (!st)
        st = learner_pretrain(&model, &data, &options, &budget, err);
    if (!st)
        st = delta_model_save(&model, files->base, err);
    if (!st)
        st = delta_file_remove(checkpoint, err);
    free(ids);
    delta_model_release(&model);
    learner_samples_release(&data);
    return st;
}

enum delta_status exp_make_exemplars(const struct learner_experiment *plan,
                                     const struct learner_samples *train, const struct exp_run *run,
                                     const struct exp_files *files, struct exp_pulse *pulse,
                                     struct delta_error *err)
{
    /* herding draws nothing; probes are the same for every seed, so that this is done once a base
     */
    const struct learner_budget budget = {.device = plan->device,
                                          .threads = (int)plan->threads,
                                          .seed = PROBE_SEED,
                                          .progress = watch,
                                          .context = pulse};
    struct learner_exemplars exemplars = LEARNER_EXEMPLARS_INIT;
    struct learner_samples data = LEARNER_SAMPLES_INIT;
    struct delta_model model = DELTA_MODEL_INIT;
    enum delta_status st = exp_base_open(&model, plan, run, files->base, err);

    exp_pulse_start(pulse, 1, exp_now_ms());
    if (!st)
        st = learner_samples_select(&data, train, model.classes, model.class_count,
                                    (size_t)plan->pool, err);
    if (!st)
        st = learner_exemplars_choose_within(&exemplars, &model, &data,
                                             (size_t)plan->variants[run->variant].exemplars,
                                             (size_t)plan->probes, &budget, err);
    if (!st)
        st = learner_exemplars_keep_latents(&exemplars, &model, &budget, err);
    if (!st)
        st = learner_exemplars_save(&exemplars, files->exemplars, err);
    learner_exemplars_release(&exemplars);
    learner_samples_release(&data);
    delta_model_release(&model);
    return st;
}
