#include "guard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "embed.h"
#include "exemplar_features.h"

static double share(size_t part, size_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

/* The probe images of classes that the base knows. */
static enum delta_status known_probes(struct learner_samples *out,
                                      const struct learner_trial *trial, struct delta_error *err)
{
    const struct learner_samples *probe = trial->probe;
    struct delta_class_id *known = delta_calloc(probe->class_count + 1, sizeof *known);
    size_t count = 0;

    if (!known)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t k = 0; k < probe->class_count; k++)
        if (delta_model_class_index(trial->base, probe->classes[k].text) >= 0)
            known[count++] = probe->classes[k];
    const enum delta_status st = learner_samples_select(out, probe, known, count, 0, err);
    free(known);
    return st;
}

/* The share of the probe images that the model's classifier gets right by what is known of them;
 * of those whose class the base knows. */
static enum delta_status test_known(double *right, size_t *images,
                                    const struct learner_trial *trial,
                                    const struct delta_model *model, struct delta_error *err)
{
    const struct learner_features *known = trial->known;
    const size_t classes = model->class_count;
    float *logits = delta_calloc(known->probe_count * classes + 1, sizeof *logits);
    int32_t *outputs = learner_samples_outputs(trial->probe, trial->base);
    size_t correct = 0;
    enum delta_status st =
        logits && outputs ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");

    *images = 0;
    if (!st)
        st =
            learner_features_logits(logits, known->probe, known->probe_count, known->d, model, err);
    for (size_t i = 0; !st && i < known->probe_count; i++) {
        if (outputs[i] < 0)
            continue;
        ++*images;
        correct += learner_best_of(logits + i * classes, classes) == (size_t)outputs[i];
    }
    *right = share(correct, *images);
    free(logits);
    free(outputs);
    return st;
}

/* No image is looked at: the model differs from the base in its classifier alone. */
static enum delta_status test_old_known(struct learner_report *report,
                                        const struct learner_trial *trial, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    if (!trial->before_known)
        st = test_known(&report->old_before, &report->probe_images, trial, trial->base, err);
    if (!st)
        st = test_known(&report->old_after, &report->probe_images, trial, trial->model, err);
    return st;
}

static enum delta_status test_old(struct learner_report *report, const struct learner_trial *trial,
                                  struct delta_error *err)
{
    struct learner_samples probe = LEARNER_SAMPLES_INIT;
    struct learner_scores before = {0}, after = {0};
    enum delta_status st = known_probes(&probe, trial, err);

    if (!st && probe.count) {
        if (!trial->before_known)
            st = learner_evaluate(&before, trial->base, &probe, trial->budget, err);
        if (!st)
            st = learner_evaluate(&after, trial->model, &probe, trial->budget, err);
    }
    if (!st) {
        report->probe_images = probe.count;
        if (!trial->before_known)
            report->old_before = share(before.correct, before.images);
        report->old_after = share(after.correct, after.images);
        report->image_passes += (trial->before_known ? 1.0 : 2.0) / 3 * (double)probe.count;
    }
    learner_scores_release(&before);
    learner_scores_release(&after);
    learner_samples_release(&probe);
    return st;
}

/* The training samples of classes with too few held-out ones. */
static enum delta_status scarce_train(struct learner_samples *out,
                                      const struct learner_trial *trial, struct delta_error *err)
{
    const struct learner_samples *train = trial->train, *held = trial->held;
    struct delta_class_id *scarce = delta_calloc(train->class_count + 1, sizeof *scarce);
    size_t count = 0;

    if (!scarce)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t k = 0; k < train->class_count; k++) {
        size_t images =
            0; /* train and held share one class list: both were filtered from one set */
        for (size_t i = 0; i < held->count; i++)
            images += held->labels[i] == (int32_t)k;
        if (images < GUARD_MIN_HELD)
            scarce[count++] = train->classes[k];
    }
    const enum delta_status st = learner_samples_select(out, train, scarce, count, 0, err);
    free(scarce);
    return st;
}

/* The class recalled worst, by its held-out samples where these are enough. */
struct worst {
    const char *name;
    double recall;
    size_t images;
};

static void find_worst(struct worst *worst, const struct learner_trial *trial,
                       const struct learner_scores *train, const struct learner_scores *held)
{
    const struct learner_class_score none = {0, 0};

    for (size_t k = trial->base->class_count; k < trial->model->class_count; k++) {
        const struct learner_class_score *a = train->class_count ? &train->classes[k] : &none;
        const struct learner_class_score *b = held->class_count ? &held->classes[k] : &none;
        const size_t images = a->images + b->images;
        const double recall = share(a->correct + b->correct, images);
        if (!worst->name || recall < worst->recall)
            *worst = (struct worst){trial->model->classes[k].text, recall, images};
    }
}

static enum delta_status test_new(struct learner_report *report, struct worst *worst,
                                  const struct learner_trial *trial, struct delta_error *err)
{
    struct learner_scores train = {0}, held = {0};
    struct learner_samples scarce = LEARNER_SAMPLES_INIT;
    enum delta_status st = scarce_train(&scarce, trial, err);

    if (!st && scarce.count)
        st = learner_evaluate(&train, trial->model, &scarce, trial->budget, err);
    if (!st && trial->held->count)
        st = learner_evaluate(&held, trial->model, trial->held, trial->budget, err);
    if (!st) {
        report->held_out_new = trial->held->count;
        report->new_recall = trial->held->count ? share(held.correct, held.images)
                                                : share(train.correct, train.images);
        report->image_passes += 1.0 / 3 * (double)(scarce.count + trial->held->count);
        find_worst(worst, trial, &train, &held);
    }
    learner_scores_release(&train);
    learner_scores_release(&held);
    learner_samples_release(&scarce);
    return st;
}

/* Beyond the bound by more than the chance of a small probe set: the standard error of a drop that
 * is the sum of single images lost, sqrt(drop / n). */
static bool drops_too_far(const struct learner_report *report, double most)
{
    const double drop = report->old_before - report->old_after;

    return report->probe_images && drop > 0 &&
           drop - sqrt(drop / (double)report->probe_images) > most;
}

/* FNV-1a over an image: copies agree; that others do is one in 2^64. */
static uint64_t print_of(const uint8_t *pixels, size_t count)
{
    uint64_t print = 0xcbf29ce484222325u;

    for (size_t i = 0; i < count; i++)
        print = (print ^ pixels[i]) * 0x100000001b3u;
    return print;
}

static int by_value(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

static size_t count_different(uint64_t *prints, const struct learner_samples *fresh, size_t k,
                              size_t *images)
{
    const size_t bytes = (size_t)fresh->channels * fresh->height * fresh->width;
    size_t different = 0;

    *images = 0;
    for (size_t i = 0; i < fresh->count; i++)
        if (fresh->labels[i] == (int32_t)k)
            prints[(*images)++] = print_of(fresh->pixels + i * bytes, bytes);
    qsort(prints, *images, sizeof *prints, by_value);
    for (size_t i = 0; i < *images; i++)
        different += i == 0 || prints[i] != prints[i - 1];
    return different;
}

enum delta_status learner_guard_samples(const struct learner_samples *fresh,
                                        const struct learner_increment_options *options,
                                        struct delta_error *err)
{
    uint64_t *prints = delta_calloc(fresh->count + 1, sizeof *prints);
    enum delta_status st = DELTA_OK;

    if (!prints)
        return delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    for (size_t k = 0; !st && options->min_images > 1 && k < fresh->class_count; k++) {
        size_t images;
        const size_t different = count_different(prints, fresh, k, &images);
        if (different < options->min_images)
            st = delta_fail(err, DELTA_REJECTED,
                            "class '%s' has %zu different picture%s in %zu sample%s, fewer than "
                            "the %zu demanded; give more",
                            fresh->classes[k].text, different, different == 1 ? "" : "s", images,
                            images == 1 ? "" : "s", options->min_images);
    }
    free(prints);
    return st;
}

enum delta_status learner_guard(struct learner_report *report, const struct learner_trial *trial,
                                struct delta_error *err)
{
    struct worst worst = {NULL, 0, 0};
    const bool known = trial->known && learner_same_body(trial->base, trial->model);
    enum delta_status st =
        known ? test_old_known(report, trial, err) : test_old(report, trial, err);

    if (!st)
        st = test_new(report, &worst, trial, err);
    if (st)
        return st;
    if (drops_too_far(report, trial->options->max_old_drop))
        return delta_fail(err, DELTA_REJECTED,
                          "old classes fell from %.1f to %.1f percent on %zu probe images, more "
                          "than the %.1f points allowed; are the new samples labelled rightly?",
                          100 * report->old_before, 100 * report->old_after, report->probe_images,
                          100 * trial->options->max_old_drop);
    if (worst.recall < trial->options->min_new_recall)
        return delta_fail(err, DELTA_REJECTED,
                          "class '%s' is recalled on %.1f percent of %zu samples, below the %.1f "
                          "demanded; give more or clearer samples",
                          worst.name, 100 * worst.recall, worst.images,
                          100 * trial->options->min_new_recall);
    return DELTA_OK;
}
