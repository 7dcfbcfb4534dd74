#include "exp_measure.h"

#include <stdlib.h>
#include <string.h>

#include "delta/delta.h"

/* Bytes of the delta under the learned model's freeze plan, as if the base had come with it: both
 * sides know the plan. A method that gives weights free again is sealed against the base as is. */
enum delta_status exp_sealed_bytes(size_t *bytes, const struct delta_model *base,
                                   const struct delta_model *learned, struct delta_error *err)
{
    const struct delta_options options = {.provenance = NULL};
    struct delta_model planned = DELTA_MODEL_INIT;
    struct delta_buf file = {0};
    enum delta_status st = delta_model_copy(&planned, base, err);

    for (size_t i = 0; !st && i < planned.tensor_count; i++) {
        const struct delta_tensor *theirs = delta_model_find(learned, planned.tensors[i].name);
        if (theirs && theirs->count == planned.tensors[i].count)
            st = delta_tensor_set_freeze(&planned.tensors[i], theirs->freeze.mode,
                                         theirs->freeze.bits, theirs->freeze.count, err);
    }
    if (!st)
        st = delta_diff(&planned, learned, &options, &file, err);
    if (!st)
        *bytes = file.len;
    delta_buf_release(&file);
    delta_model_release(&planned);
    return st;
}

/* Elements that the learned model's plan calls frozen, and those of them that moved. */
void exp_count_frozen(size_t *frozen, size_t *moved, const struct delta_model *base,
                      const struct delta_model *learned)
{
    *frozen = *moved = 0;
    for (size_t i = 0; i < base->tensor_count; i++) {
        const struct delta_tensor *old = &base->tensors[i];
        const struct delta_tensor *now = delta_model_find(learned, old->name);
        for (size_t j = 0; now && j < old->count && j < now->count; j++) {
            const bool is = delta_tensor_is_frozen(now, j);
            *frozen += is;
            *moved += is && memcmp(&old->data[j], &now->data[j], sizeof(float)) != 0;
        }
    }
}

static double share(size_t correct, size_t images)
{
    return images ? (double)correct / (double)images : 0;
}

/* All classes that a perfect learner would know by now: those that the model lacks are wrong.
 *   order    labels; `known` of them before this step, `seen` after it */
enum delta_status exp_test(struct exp_accuracy *out, const struct exp_subject *subject,
                           size_t known, size_t seen, const struct learner_budget *budget,
                           struct delta_error *err)
{
    const struct learner_experiment *plan = subject->plan;
    const uint32_t *order = exp_order(plan, subject->run->order);
    struct delta_class_id *ids = delta_calloc(seen + 1, sizeof *ids);
    struct learner_samples images = LEARNER_SAMPLES_INIT;
    struct learner_scores scores = {0};
    size_t correct[4] = {0}, there[4] = {0}; /* old, new, base, added */
    enum delta_status st = ids ? DELTA_OK : delta_fail(err, DELTA_NO_MEMORY, "out of memory");
    const size_t skip =
        subject->base_count + subject->run->group * subject->run->count *
                                  (size_t)plan->protocols[subject->run->protocol].steps;

    for (size_t i = 0; !st && i < seen; i++)
        ids[i] =
            plan->test.classes[order[i < subject->base_count ? i : skip + i - subject->base_count]];
    if (!st)
        st = learner_samples_select(&images, &plan->test, ids, seen, 0, err);
    if (!st)
        st = learner_evaluate(&scores, subject->model, &images, budget, err);
    for (size_t i = 0; !st && i < images.count; i++) {
        const size_t k = (size_t)images.labels[i];
        there[k < known ? 0 : 1]++;
        there[k < subject->base_count ? 2 : 3]++;
    }
    for (size_t k = 0; !st && k < seen; k++) {
        const long at = delta_model_class_index(subject->model, ids[k].text);
        const size_t right = at < 0 ? 0 : scores.classes[at].correct;
        correct[k < known ? 0 : 1] += right;
        correct[k < subject->base_count ? 2 : 3] += right;
    }
    if (!st) {
        *out = (struct exp_accuracy){share(correct[0] + correct[1], images.count),
                                     share(correct[0], there[0]),
                                     share(correct[1], there[1]),
                                     0,
                                     share(correct[2], there[2]),
                                     share(correct[3], there[3])};
        if (out->old + out->fresh > 0)
            out->harmonic = 2 * out->old * out->fresh / (out->old + out->fresh);
    }
    learner_scores_release(&scores);
    learner_samples_release(&images);
    free(ids);
    return st;
}

/* PackNet is made for somebody who knows an image's task: then old images are answered with old
 * classes and without the freed weights, new ones with new classes. */
enum delta_status exp_test_by_task(json_t *json, const struct exp_subject *subject, size_t known,
                                   const struct learner_budget *budget, struct delta_error *err)
{
    static const char *const keys[] = {"task_old", "task_new"};
    const char *method = subject->plan->variants[subject->run->variant].method;
    enum delta_status st = DELTA_OK;

    if (strcmp(method, "packnet") != 0 || subject->model->class_count <= known)
        return DELTA_OK;
    for (int fresh = 0; !st && fresh < 2; fresh++) {
        struct delta_model view = DELTA_MODEL_INIT;
        struct learner_samples images = LEARNER_SAMPLES_INIT;
        struct learner_scores scores = {0};
        st = learner_packnet_view(&view, subject->model, known, fresh != 0, err);
        if (!st)
            st = learner_samples_select(&images, &subject->plan->test,
                                        view.classes + (fresh ? known : 0),
                                        fresh ? view.class_count - known : known, 0, err);
        if (!st)
            st = learner_evaluate(&scores, &view, &images, budget, err);
        if (!st)
            json_object_set_new(json, keys[fresh],
                                json_real(100 * share(scores.correct, scores.images)));
        learner_scores_release(&scores);
        learner_samples_release(&images);
        delta_model_release(&view);
    }
    return st;
}

void exp_accuracy_put(json_t *json, const struct exp_accuracy *a)
{
    json_object_set_new(json, "all", json_real(100 * a->all));
    json_object_set_new(json, "old", json_real(100 * a->old));
    json_object_set_new(json, "new", json_real(100 * a->fresh));
    json_object_set_new(json, "harmonic", json_real(100 * a->harmonic));
    json_object_set_new(json, "base_classes", json_real(100 * a->base));
    json_object_set_new(json, "added_classes", json_real(100 * a->added));
}

size_t exp_encoded_bytes(const struct delta_model *model)
{
    struct delta_buf file = {0};
    const size_t bytes = delta_model_encode(model, &file, NULL) ? 0 : file.len;

    delta_buf_release(&file);
    return bytes;
}
