/* A base from scratch: SGD with Nesterov momentum over shuffled, augmented images. */
#include <stdlib.h>
#include <string.h>

#include "delta/clock.h"
#include "delta/file.h"
#include "embed.h"
#include "gather.h"
#include "graph.h"
#include "holdout.h"
#include "net_device.h"
#include "schedule.h"
#include "trainer.h"

#define STEPS_MAX ((size_t)1 << 40)
#define BATCH_LIMIT 65536
#define MEASURED_STEPS 3 /* the first ones warm caches; then the schedule is fitted to the time */
#define TIME_SHARE 0.95  /* of what is left: checkpoints and tests take some */
#define TEST_SHARE 0.5   /* of a training image's time; a forward pass alone is about a third */
#define FEWEST 8         /* images: batch statistics of fewer are noise */

enum stream { STREAM_ORDER = 11 };

struct learner_pretrain_options learner_pretrain_defaults(void)
{
    return (struct learner_pretrain_options){.epochs = 13,
                                             .batch = 128,
                                             .lr = 0.1,
                                             .momentum = 0.9,
                                             .weight_decay = 5e-4,
                                             .augment = true,
                                             .every_epochs = 1};
}

static void trainer_release(struct trainer *trainer)
{
    learner_sgd_free(trainer->sgd);
    learner_augment_release(&trainer->augment);
    learner_feed_release(&trainer->feed);
    if (trainer->net) {
        learner_gather_free(trainer->net, trainer->sum);
        learner_net_block_free(trainer->net, trainer->average);
    }
    learner_net_free(trainer->net);
    free(trainer->outputs);
    free(trainer->labels);
    free(trainer->others);
    free(trainer->is_held);
    free(trainer->held);
    free(trainer->order);
}

static enum delta_status check_options(const struct learner_pretrain_options *options,
                                       struct delta_error *err)
{
    if (options->epochs < 1 || !options->batch || options->batch > BATCH_LIMIT ||
        !(options->lr > 0) || !(options->momentum >= 0 && options->momentum < 1) ||
        !(options->weight_decay >= 0))
        return delta_fail(err, DELTA_USAGE,
                          "pretraining needs epochs >= 1, batch within 1 and %d, lr > 0, "
                          "0 <= momentum < 1, weight decay >= 0",
                          BATCH_LIMIT);
    if (!(options->mixup >= 0 && options->mixup <= 1) ||
        !(options->label_smoothing >= 0 && options->label_smoothing <= 0.5) ||
        !(options->ema >= 0 && options->ema < 1))
        return delta_fail(err, DELTA_USAGE,
                          "pretraining needs 0 <= mixup <= 1, 0 <= label smoothing <= 0.5, "
                          "0 <= ema < 1");
    if (options->resume && !options->checkpoint)
        return delta_fail(err, DELTA_USAGE, "to resume, name the checkpoint");
    return DELTA_OK;
}

/* A remainder below half a batch is left out: batch statistics of a few images are noise. The
 * next epoch shuffles anew, so no image is lost for good. */
static size_t steps_of_epoch(size_t count, size_t batch)
{
    const size_t steps = count / batch + (count % batch >= (batch + 1) / 2);

    return steps ? steps : 1;
}

/* Chooses the held-out images: the first so many of each class after a shuffle of its own. */
static enum delta_status choose_held(struct trainer *trainer, struct delta_error *err)
{
    const struct learner_samples *samples = trainer->samples;
    uint32_t *of_class = trainer->order; /* not in use yet */

    for (size_t k = 0; trainer->options->held_out && k < samples->class_count; k++) {
        struct learner_rng rng = learner_class_rng(trainer->budget->seed, &samples->classes[k]);
        size_t count = 0;
        for (size_t i = 0; i < samples->count; i++)
            if (samples->labels[i] == (int32_t)k)
                of_class[count++] = (uint32_t)i;
        if (count && count <= trainer->options->held_out)
            return delta_fail(err, DELTA_USAGE,
                              "%zu images per class to hold out, class '%s' has only %zu",
                              trainer->options->held_out, samples->classes[k].text, count);
        learner_rng_shuffle(&rng, of_class, count);
        for (size_t i = 0; i < count && i < trainer->options->held_out; i++)
            trainer->is_held[of_class[i]] = true;
    }
    for (size_t i = 0; i < samples->count; i++)
        if (trainer->is_held[i])
            trainer->held[trainer->held_count++] = (uint32_t)i;
    trainer->count = samples->count - trainer->held_count;
    return DELTA_OK;
}

static enum delta_status make_lists(struct trainer *trainer, struct delta_error *err)
{
    const struct learner_samples *samples = trainer->samples;

    if (!samples->count)
        return delta_fail(err, DELTA_NOT_FOUND, "no images to train on");
    for (size_t k = 0; k < samples->class_count; k++)
        if (delta_model_class_index(trainer->model, samples->classes[k].text) < 0)
            return delta_fail(err, DELTA_MISMATCH, "the model has no output for class '%s'",
                              samples->classes[k].text);
    trainer->outputs = learner_samples_outputs(samples, trainer->model);
    trainer->order = delta_calloc(samples->count, sizeof *trainer->order);
    trainer->held = delta_calloc(samples->count, sizeof *trainer->held);
    trainer->is_held = delta_calloc(samples->count, sizeof *trainer->is_held);
    if (!trainer->outputs || !trainer->order || !trainer->held || !trainer->is_held)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for pretraining");
    const enum delta_status st = choose_held(trainer, err);
    if (st)
        return st;
    trainer->per_epoch = steps_of_epoch(trainer->count, trainer->options->batch);
    if (trainer->per_epoch > STEPS_MAX / (size_t)trainer->options->epochs)
        return delta_fail(err, DELTA_LIMIT, "too many steps");
    trainer->planned = trainer->per_epoch * (size_t)trainer->options->epochs;
    return DELTA_OK;
}

/* What lies beside the net on its device. The average begins as the weights. */
static enum delta_status make_blocks(struct trainer *trainer, struct delta_error *err)
{
    const struct learner_pretrain_options *options = trainer->options;
    struct learner_net *net = trainer->net;

    if (trainer->micro < options->batch)
        trainer->sum = learner_gather_new(net);
    if (options->ema > 0)
        trainer->average = learner_net_block(net, net->value_count);
    if ((trainer->micro < options->batch && !trainer->sum) ||
        (options->ema > 0 && !trainer->average))
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for pretraining");
    if (trainer->average)
        learner_device_copy(net->device, trainer->average, net->values,
                            net->value_count * sizeof(float));
    return DELTA_OK;
}

static enum delta_status make_buffers(struct trainer *trainer, struct delta_error *err)
{
    trainer->labels = delta_calloc(trainer->micro, sizeof *trainer->labels);
    trainer->others = delta_calloc(trainer->micro, sizeof *trainer->others);
    if (!trainer->labels || !trainer->others)
        return delta_fail(err, DELTA_NO_MEMORY, "no memory for pretraining");
    return DELTA_OK;
}

static enum delta_status need_memory(void *context, size_t images, size_t *bytes,
                                     struct delta_error *err)
{
    const struct trainer *trainer = context;
    const struct learner_pretrain_options *options = trainer->options;
    const struct learner_samples *samples = trainer->samples;
    const size_t values = learner_model_bytes(trainer->model);
    const size_t image = (size_t)samples->channels * samples->height * samples->width;
    const enum delta_status st =
        learner_budget_net(bytes, trainer->model, trainer->budget, images, true, err);

    *bytes += values; /* velocities; statistics have none, which is next to nothing */
    *bytes += images < options->batch ? values : 0;
    *bytes += options->ema > 0 ? values : 0;
    *bytes += options->augment || options->cutout ? images * image : 0;
    *bytes += samples->count * sizeof *trainer->order;
    return st;
}

static enum delta_status trainer_init(struct trainer *trainer, struct delta_error *err)
{
    const struct learner_pretrain_options *options = trainer->options;
    const struct learner_net_options net_options = {.device = trainer->budget->device,
                                                    .batch = trainer->micro,
                                                    .threads = trainer->budget->threads,
                                                    .train = true};
    const struct learner_sgd_options sgd_options = {options->momentum, options->weight_decay, true};
    enum delta_status st = make_buffers(trainer, err);

    if (!st)
        st = learner_augment_init(&trainer->augment, options, trainer->samples,
                                  &trainer->model->arch, trainer->micro, err);
    if (!st)
        st = learner_net_new(&trainer->net, trainer->model, &net_options, err);
    if (!st)
        st = learner_sgd_new(&trainer->sgd, trainer->net, NULL, &sgd_options, err);
    if (!st)
        st = make_blocks(trainer, err);
    if (st)
        return st;
    learner_feed_init(&trainer->feed, trainer->net, trainer->samples, &trainer->model->arch, true);
    learner_augment_place(&trainer->augment, &trainer->feed);
    return DELTA_OK;
}

/* ---- the run ---- */

/* The order of an epoch does not depend on the epochs before. */
static void shuffle(struct trainer *trainer, size_t epoch)
{
    struct learner_rng rng;
    size_t used = 0;

    learner_rng_init(&rng, trainer->budget->seed, STREAM_ORDER + ((uint64_t)epoch << 8));
    for (size_t i = 0; i < trainer->samples->count; i++)
        if (!trainer->is_held[i])
            trainer->order[used++] = (uint32_t)i;
    learner_rng_shuffle(&rng, trainer->order, used);
    trainer->loss_sum = trainer->correct = 0;
    trainer->seen = 0;
}

/* Puts step, layer and remedy into one line. */
static enum delta_status blame_step(const struct trainer *trainer, size_t step, size_t saved_step,
                                    struct delta_error *err)
{
    const struct learner_pretrain_status *status = &trainer->status;
    struct delta_error why = DELTA_ERROR_INIT;
    char kept[160] = "";

    if (err)
        why = *err;
    if (saved_step)
        snprintf(kept, sizeof kept, "; the checkpoint of step %zu is kept", saved_step);
    const bool is_input = strncmp(why.text, "the input", 9) == 0;
    return delta_fail(err, DELTA_NONFINITE, "step %zu of %zu (epoch %zu): %.240s%s%s", step,
                      status->steps, status->epoch, why.text,
                      is_input ? "" : "; try a smaller step size (lr)", kept);
}

struct clockwork {
    struct delta_clock clock;
    int64_t begun_ms, saved_ms, step_ms; /* when the run, the last save, the last step ended */
    size_t first;                        /* step that this process began at */
    double each;                         /* seconds a step takes, smoothed */
    size_t saved_step;                   /* 0: nothing saved or loaded yet */
};

/* Speed, and how many steps there is time for. */
static void keep_time(struct trainer *trainer, struct clockwork *clockwork, size_t images)
{
    struct learner_pretrain_status *status = &trainer->status;
    const int64_t now_ms = delta_clock_monotonic_ms(&clockwork->clock);
    const size_t own = status->step - clockwork->first;
    const double took = (double)(now_ms - clockwork->step_ms) / 1000;

    clockwork->step_ms = now_ms;
    if (own <= MEASURED_STEPS) /* the mean of the first ones, then mostly the past */
        clockwork->each += (took - clockwork->each) / (double)own;
    else
        clockwork->each += 0.05 * (took - clockwork->each);
    if (clockwork->each > 0)
        status->images_per_second = (double)images / clockwork->each;
    if (trainer->deadline_ms) {
        const double test = TEST_SHARE * clockwork->each / (double)trainer->options->batch *
                            (double)trainer->options->test_images;
        const double left = (double)(trainer->deadline_ms - now_ms) / 1000 - test;
        if (left <= 0 || own >= MEASURED_STEPS)
            status->steps = learner_schedule_fit(trainer->planned, status->step, clockwork->each,
                                                 TIME_SHARE * left);
    }
    status->seconds_left = clockwork->each * (double)(status->steps - status->step);
}

static bool is_due(const struct trainer *trainer, const struct clockwork *clockwork)
{
    const struct learner_pretrain_options *options = trainer->options;
    const size_t step = trainer->status.step;
    const double spent = (double)(clockwork->step_ms - clockwork->saved_ms) / 1000;
    const size_t pause = (size_t)(options->every_epochs * (double)trainer->per_epoch + 0.5);

    if (step >= trainer->status.steps)
        return true;
    if (options->every_seconds > 0 && spent >= options->every_seconds)
        return true;
    return options->every_epochs > 0 && step % (pause ? pause : 1) == 0;
}

/* Test, checkpoint and report after a step. */
static enum delta_status after_step(struct trainer *trainer, struct clockwork *clockwork,
                                    struct delta_error *err)
{
    struct learner_pretrain_status *status = &trainer->status;
    const struct learner_pretrain_options *options = trainer->options;
    const bool ends = status->step >= status->steps;
    enum delta_status st = DELTA_OK;

    status->saved = false;
    status->loss = trainer->seen ? trainer->loss_sum / (double)trainer->seen : 0;
    status->accuracy = trainer->seen ? trainer->correct / (double)trainer->seen : 0;
    if (ends || status->step % trainer->per_epoch == 0)
        st = learner_train_test(trainer, err);
    if (!st && options->checkpoint && is_due(trainer, clockwork)) {
        st = learner_train_save(trainer, err);
        clockwork->saved_ms = delta_clock_monotonic_ms(&clockwork->clock);
        if (!st)
            clockwork->saved_step = status->step;
        status->saved = !st;
    }
    if (st)
        return st;
    if (options->watch)
        options->watch(options->watch_context, status);
    st = learner_budget_tick(trainer->budget, "pretraining", (double)status->step,
                             (double)status->steps, err);
    if (!st || !options->checkpoint)
        return st;
    struct delta_error why;
    if (clockwork->saved_step != status->step && learner_train_save(trainer, &why))
        return delta_fail(err, why.status, "stopped, and the checkpoint failed: %.400s", why.text);
    return delta_fail(err, st, "stopped after step %zu of %zu; the same command goes on from '%s'",
                      status->step, status->steps, options->checkpoint);
}

static enum delta_status run_steps(struct trainer *trainer, struct clockwork *clockwork,
                                   struct delta_error *err)
{
    struct learner_pretrain_status *status = &trainer->status;
    const size_t batch = trainer->options->batch;
    size_t shuffled = (size_t)-1;
    enum delta_status st = DELTA_OK;

    while (!st && status->step < status->steps) {
        const size_t epoch = status->step / trainer->per_epoch, step = status->step + 1;
        const size_t at = status->step % trainer->per_epoch * batch;
        const size_t left = trainer->count - at, n = left < batch ? left : batch;
        if (epoch != shuffled)
            shuffle(trainer, shuffled = epoch);
        status->epoch = epoch + 1;
        st = learner_train_step(trainer, trainer->order + at, n,
                                learner_schedule_cosine(trainer->options->lr, status->step,
                                                        status->steps, status->steps / 10),
                                err);
        if (!st) {
            keep_time(trainer, clockwork, n);
            st = after_step(trainer, clockwork, err);
        }
        if (st == DELTA_NONFINITE)
            return blame_step(trainer, step, clockwork->saved_step, err);
    }
    return st;
}

/* Opens the checkpoint if there is one: how many images fit into memory was decided then, and
 * changes the bytes. */
static enum delta_status find_checkpoint(struct trainer *trainer,
                                         struct learner_checkpoint_file *file,
                                         struct delta_error *err)
{
    const struct learner_pretrain_options *options = trainer->options;
    enum delta_status st;

    if (!options->checkpoint || (!options->resume && !delta_file_exists(options->checkpoint)))
        return DELTA_OK;
    st = learner_checkpoint_open(file, options->checkpoint, err);
    if (!st && file->state.microbatch >= 1 && file->state.microbatch <= options->batch)
        trainer->micro = (size_t)file->state.microbatch;
    return st;
}

static enum delta_status take_over(struct trainer *trainer, struct learner_checkpoint_file *file,
                                   struct delta_error *err)
{
    const struct learner_checkpoint *state = &file->state;
    const enum delta_status st = learner_checkpoint_same_run(state, &trainer->state, err);

    if (st)
        return st;
    if (state->steps > trainer->planned)
        return delta_fail(err, DELTA_FORMAT, "%llu steps", (unsigned long long)state->steps);
    if (state->microbatch != trainer->micro)
        return delta_fail(err, DELTA_MISMATCH,
                          "it has %llu images at once, here are %zu; remove the file to start anew",
                          (unsigned long long)state->microbatch, trainer->micro);
    trainer->status.step = (size_t)state->step;
    trainer->status.steps = (size_t)state->steps;
    return learner_train_load(trainer, file, err);
}

/* Options are compared only now: some are known to the built network alone. */
static enum delta_status resume(struct trainer *trainer, struct learner_checkpoint_file *file,
                                struct clockwork *clockwork, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    if (!trainer->options->checkpoint)
        return DELTA_OK;
    st = learner_train_describe(trainer, err);
    if (st || !file->file)
        return st;
    st = take_over(trainer, file, err);
    clockwork->saved_step = trainer->status.step;
    return st ? delta_fail_in(err, st, "checkpoint '%s'", trainer->options->checkpoint) : DELTA_OK;
}

/* What is stored: the average where there is one, statistics included. */
static enum delta_status store(struct trainer *trainer, struct delta_model *model,
                               const struct clockwork *clockwork, struct delta_error *err)
{
    enum delta_status st;

    learner_train_swap(trainer);
    /* the last step could have been the one that diverged */
    learner_feed_load(&trainer->feed, trainer->order, 1);
    st = learner_net_forward(trainer->net, 1, LEARNER_INFER, err);
    if (st == DELTA_NONFINITE)
        return blame_step(trainer, trainer->status.step, clockwork->saved_step, err);
    return st ? st : learner_net_store(trainer->net, model, err);
}

enum delta_status learner_pretrain_run(struct delta_model *model,
                                       const struct learner_samples *train,
                                       const struct learner_pretrain_options *options,
                                       const struct learner_budget *budget,
                                       struct learner_pretrain_status *status,
                                       struct delta_error *err)
{
    struct learner_budget plan = budget ? *budget : (struct learner_budget){0};
    struct trainer trainer = {.model = model,
                              .samples = train,
                              .options = options,
                              .budget = &plan,
                              .deadline_ms = plan.deadline_ms,
                              .micro = options->batch};
    struct clockwork clockwork = {.clock = delta_clock_system()};
    struct learner_checkpoint_file file = {.file = NULL};
    enum delta_status st = check_options(options, err);

    if (!st)
        st = learner_samples_check(train, &model->arch, err);
    if (!st)
        st = make_lists(&trainer, err);
    trainer.status.steps = trainer.planned;
    trainer.status.epochs = (size_t)options->epochs;
    trainer.status.held_out = -1;
    if (!st)
        st = find_checkpoint(&trainer, &file, err);
    plan.deadline_ms = 0;
    if (!st)
        st = learner_budget_plan(&plan, &plan, "pretraining", trainer.micro,
                                 file.file ? trainer.micro : FEWEST, need_memory, &trainer, err);
    if (!st && plan.at_once < trainer.micro)
        trainer.micro = plan.at_once;
    if (!st)
        st = trainer_init(&trainer, err);
    if (!st)
        st = resume(&trainer, &file, &clockwork, err);
    learner_checkpoint_close(&file);
    clockwork.first = trainer.status.step;
    clockwork.begun_ms = delta_clock_monotonic_ms(&clockwork.clock);
    clockwork.saved_ms = clockwork.step_ms = clockwork.begun_ms;
    if (!st)
        st = run_steps(&trainer, &clockwork, err);
    if (!st)
        st = store(&trainer, model, &clockwork, err);
    if (!st && status)
        *status = trainer.status;
    trainer_release(&trainer);
    return st;
}

enum delta_status learner_pretrain(struct delta_model *model, const struct learner_samples *train,
                                   const struct learner_pretrain_options *options,
                                   const struct learner_budget *budget, struct delta_error *err)
{
    return learner_pretrain_run(model, train, options, budget, NULL, err);
}
