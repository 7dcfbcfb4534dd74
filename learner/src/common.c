#include "common.h"

enum delta_status learner_unfreeze(struct delta_model *model, struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && i < model->tensor_count; i++)
        st = delta_tensor_set_freeze(&model->tensors[i], DELTA_FREEZE_LIVE, NULL, 0, err);
    return st;
}

enum delta_status learner_take_plan(struct delta_model *model, const struct delta_model *from,
                                    struct delta_error *err)
{
    enum delta_status st = DELTA_OK;

    for (size_t i = 0; !st && i < from->tensor_count; i++) {
        const struct delta_freeze *freeze = &from->tensors[i].freeze;
        struct delta_tensor *tensor = delta_model_find(model, from->tensors[i].name);
        if (tensor)
            st = delta_tensor_set_freeze(tensor, freeze->mode, freeze->bits, freeze->count, err);
    }
    return st;
}

bool learner_has_plan(const struct delta_model *model)
{
    for (size_t i = 0; i < model->tensor_count; i++)
        if (model->tensors[i].freeze.mode != DELTA_FREEZE_LIVE)
            return true;
    return false;
}

enum delta_status learner_need_exemplars(const struct learner_task *task, struct delta_error *err)
{
    return task->replay->count ? DELTA_OK
                               : delta_fail(err, DELTA_NOT_FOUND,
                                            "method '%s' needs exemplars of the old classes; make "
                                            "some with 'frostline-learn exemplars'",
                                            task->options->method);
}
