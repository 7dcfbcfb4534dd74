/* One interface for every learning method; learn.c prepares what a method needs and judges what it
 * made. One file per method in method/. Private. */
#ifndef LEARNER_METHOD_H
#define LEARNER_METHOD_H

#include "learner/learn.h"

/* A model that could be the result: the guard judges the last one first. */
struct learner_candidate {
    char name[8];
    struct delta_model model; /* owned */
    double seconds, image_passes;
    bool learned; /* its own part did something: not cut short before it began */
};

struct learner_task {
    /* The method's work: the base with new rows (zero) in its head. It may write tensors and the
     * freeze plan; never the class list. */
    struct delta_model *model;
    const struct delta_model *base;
    const struct learner_samples *fresh;   /* to train on: new classes only */
    const struct learner_samples *replay;  /* exemplars of old classes; may be empty */
    const struct learner_features *known;  /* of the exemplars, by the base; NULL: none */
    const struct learner_latents *latents; /* of the exemplars, by some model; NULL: none */
    const struct learner_increment_options *options;
    const struct learner_budget *budget;
    /* Images that the guard will classify after the method: their time is kept. */
    size_t guard_images;
    double image_passes; /* counted by the method */
    bool cut_short;      /* set by the method: the time was up, the model is as far as it came */
    /* Stages that are usable by themselves, in order, offered by the method; none: its model is the
     * only one */
    struct learner_candidate candidates[LEARNER_STAGES_MAX];
    size_t candidate_count;
    int64_t stage_began_ms;
    double stage_began_passes;
};

/* Keeps a copy of the task's model, rounded, as the result of the stages so far; the task's model
 * itself stays exact.  fails: NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_task_offer(struct learner_task *task, const char *name,
                                                    struct delta_error *err);
/* Rounds a result as the options say, if elements of the base moved: new rows alone stay exact. */
DELTA_MUST_USE enum delta_status learner_task_round(const struct learner_task *task,
                                                    struct delta_model *model,
                                                    struct delta_error *err);

struct learner_method {
    const char *name;
    struct learner_increment_options defaults;
    /* Before the deadline less the guard's time, where the method can stop: not all can. */
    enum delta_status (*run)(struct learner_task *task, struct delta_error *err);
    /* Bytes that run takes at its worst moment, with so many images at once; NULL: next to none. */
    enum delta_status (*need)(const struct learner_task *task, size_t images, size_t *bytes,
                              struct delta_error *err);
};

extern const struct learner_method learner_method_frostline;
extern const struct learner_method learner_method_freeze;
extern const struct learner_method learner_method_e2e;
extern const struct learner_method learner_method_packnet;
extern const struct learner_method learner_method_finetune;
extern const struct learner_method learner_method_replay;
extern const struct learner_method learner_method_replay_kd;
extern const struct learner_method learner_method_joint;
extern const struct learner_method learner_method_head_only;
extern const struct learner_method learner_method_layer4_only;
extern const struct learner_method learner_method_ncm;
extern const struct learner_method learner_method_do_nothing;

/* NULL: there is none of that name. */
const struct learner_method *learner_method_find(const char *name);

#endif
